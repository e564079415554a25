"""Expected content of unread shards, for a plan: samples by size, as in the shards that were read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.errors import NotFoundError
from infra.receipts import ReceiptHead
from infra.shards.shards import scan_shard
from pipeline.data.inventory import ListedShard
from pipeline.data.receipt_info import InventoryInfo
from pipeline.data.units import Selection, Shard
from pipeline.plan.plan import Plan

HEAD_BYTES = 4 << 20
HEADS = 4
GUESSED_BYTES = 100_000
"""Bytes of a sample if no shard could be read so far."""


@dataclass(frozen=True)
class Expected:
    """The estimated samples of new shards, and the basis of the estimate."""

    samples: Mapping[str, int] = field(default_factory=dict)  # by the shard's name
    size: int = 0  # bytes of those shards
    basis: str = ""

    def chosen(self, selection: Selection) -> list[int]:
        """Return how many samples of each shard a stage will probably process."""
        counts = [count * selection.share_of(name) for name, count in self.samples.items()]
        part = 1.0 if selection.left is None else min(1.0, selection.left / max(1.0, sum(counts)))
        return [round(count * part) for count in counts]


def expected_of(plan: Plan, shards: Mapping[Shard, ReceiptHead], missing: Sequence[ListedShard]) -> Expected:
    """Return the estimated content of new shards: exact for small ones, and by size otherwise."""
    if not missing:
        return Expected()
    read = sum(shard.samples for shard in shards)
    if read:
        size = sum(InventoryInfo.from_receipt(receipt).bytes for receipt in shards.values())
        return _by_size(missing, size / read, f"as in the {len(shards)} shards that were read")
    whole, size, read = {}, 0, 0
    for listed in missing[:: max(1, len(missing) // HEADS)][:HEADS]:
        count, stop = _head(plan, listed)
        size, read = size + stop, read + count
        if listed.entry.size <= HEAD_BYTES:
            whole[listed.entry.name] = count
    if not read:
        return _by_size(missing, GUESSED_BYTES, "which is a guess")
    found = _by_size(missing, size / read, "as at the beginning of some of them")
    return Expected({**found.samples, **whole}, found.size, found.basis)


def _by_size(missing: Sequence[ListedShard], bytes_per_sample: float, basis: str) -> Expected:
    samples = {one.entry.name: max(1, round(one.entry.size / bytes_per_sample)) for one in missing}
    about = f"samples of new shards by their size, {bytes_per_sample:,.0f} bytes each, {basis}"
    return Expected(samples, sum(one.entry.size for one in missing), about)


def _head(plan: Plan, listed: ListedShard) -> tuple[int, int]:
    """Return the number of whole samples at the beginning of a shard, and where the last of them ends."""
    try:
        data = plan.sources[listed.address].read(listed.entry.name, 0, HEAD_BYTES)
    except NotFoundError:
        return 0, 0
    samples = scan_shard(io.BytesIO(data), listed.entry.name, len(data)).samples
    whole = samples if listed.entry.size <= HEAD_BYTES else samples[:-1]
    return len(whole), whole[-1].stop if whole else 0
