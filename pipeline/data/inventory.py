"""Inventories of shards: their content, the unit under which it is committed, and the samples read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.receipts import Address, AnyReceipt, Ledger
from infra.shards.shards import ShardSample
from infra.stores.store import Entry
from pipeline.data.fingerprint import fingerprint
from pipeline.data.receipt_info import InventoryInfo
from pipeline.data.units import Shard, outcome_key, read_inventory, sample_digest

STAGE = "inventory"
FINGERPRINT = fingerprint(STAGE, version=2, settings={})


@dataclass(frozen=True)
class ListedShard:
    """A shard as the input's listing shows it; another version is another task."""

    address: int  # which of the input's stores
    entry: Entry

    @property
    def name(self) -> str:
        """The unit of this version of the shard."""
        stem = self.entry.name.rpartition("/")[2].removesuffix(".tar")
        safe = "".join(c if c.isalnum() and c.isascii() else "-" for c in stem).strip("-") or "shard"
        parts = (self.address, self.entry.name, self.entry.size, self.entry.version)
        return f"{safe[-60:]}-{sample_digest(*parts, digits=14)}"


def outcomes_of(samples: tuple[ShardSample, ...]) -> Mapping[str, str | None]:
    """Return the outcome of every sample of a shard, in the form of receipts."""
    return {outcome_key(sample): sample.fault for sample in samples}


def committed_samples(ledger: Ledger, unit: str) -> list[ShardSample]:
    """Return the samples of a shard from its inventory, committed as `unit`.

    Raises:
        DamagedBundleError: the inventory is missing or damaged.
    """
    return read_inventory(ledger, ledger.required(Address(STAGE, FINGERPRINT, unit)))


def shard_of(receipt: AnyReceipt) -> Shard:
    """Return the shard of an inventory receipt."""
    info = InventoryInfo.from_receipt(receipt)
    return Shard(info.address, info.shard, info.sha256, info.samples, info.version)
