"""Unread and skipped input, reported at the end of every run and in its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infra.receipts import ReceiptHead
from infra.stores.store import Store
from pipeline.data.receipt_info import InventoryInfo, ShardFaultInfo
from pipeline.data.units import Shard

SHOWN = 20
"""Number of shards that a terminal lists."""


@dataclass(frozen=True)
class Unread:
    """The faults and notes of the input's shards, by shard, and the files that belong to no sample, counted by kind."""

    shards: int
    faults: Mapping[str, Sequence[ShardFaultInfo]]
    notes: Mapping[str, Sequence[str]]
    passed_over: Mapping[str, int]

    @classmethod
    def from_inventories(cls, inventories: Mapping[Shard, ReceiptHead], sources: Sequence[Store]) -> Unread:
        """Return the faults and notes in the inventories of the input's shards."""
        named = {name: InventoryInfo.from_receipt(receipt) for name, receipt in _named(inventories, sources).items()}
        passed_over: Counter[str] = Counter()
        for info in named.values():
            passed_over.update(info.passed_over)
        return cls(
            shards=len(named),
            faults={name: info.faults for name, info in named.items() if info.faults},
            notes={name: info.notes for name, info in named.items() if info.notes},
            passed_over=dict(sorted(passed_over.items())),
        )

    def messages(self) -> dict[str, list[str]]:
        """Return the faults of each faulty shard."""
        return {name: [fault.message for fault in faults] for name, faults in self.faults.items()}

    def lines(self) -> Iterator[str]:
        """Yield the lines for a terminal: how many shards were not read whole, and why; then what was skipped."""
        if self.faults:
            kinds = Counter(kind for faults in self.faults.values() for kind in {fault.kind for fault in faults})
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            yield f"not read: {len(self.faults)} of {self.shards} shards, or parts of them ({counts})"
            messages = self.messages()
            yield from (f"  {name}: {'; '.join(messages[name])}" for name in list(messages)[:SHOWN])
            if len(messages) > SHOWN:
                yield f"  and {len(messages) - SHOWN} more: shard_faults in summary.json"
        if others := {what: count for what, count in self.passed_over.items() if what != "folders"}:
            counts = ", ".join(f"{count} {what}" for what, count in others.items())
            advice = "; tar --dereference --hard-dereference stores what links lead to" if "links" in others else ""
            yield f"passed over: {counts}, which belong to no sample{advice}"


def _named(inventories: Mapping[Shard, ReceiptHead], sources: Sequence[Store]) -> dict[str, ReceiptHead]:
    """Return the receipts by their shards' names, with the address of the input if several share a name."""
    often, known = Counter(shard.name for shard in inventories), range(len(sources))
    return {
        f"{sources[shard.address].url}/{shard.name}"
        if often[shard.name] > 1 and shard.address in known
        else shard.name: receipt
        for shard, receipt in inventories.items()
    }
