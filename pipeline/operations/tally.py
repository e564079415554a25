"""Sums over the receipts of a stage, added while they are read; no receipt is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from infra.receipts import ReceiptHead
from pipeline.data.receipt_info import WorkInfo


@dataclass(frozen=True)
class Rate:
    """The cost of a sample so far."""

    hours: float
    size_bytes: float


@dataclass(frozen=True)
class Tally:
    """The sums over committed units."""

    units: int = 0
    recorded: int = 0
    quarantined: int = 0
    size_bytes: int = 0
    busy_s: float = 0.0

    @classmethod
    def from_heads(cls, heads: Iterable[ReceiptHead]) -> Tally:
        """Return the sums over some receipts, read one after another."""
        units, recorded, quarantined, size_bytes, busy_s = 0, 0, 0, 0, 0.0
        for head in heads:
            units += 1
            recorded, quarantined = recorded + head.recorded, quarantined + head.quarantined
            size_bytes += head.size_bytes
            busy_s += WorkInfo.from_receipt(head).busy_s
        return cls(units, recorded, quarantined, size_bytes, busy_s)

    @property
    def samples(self) -> int:
        """The number of samples that have an outcome."""
        return self.recorded + self.quarantined

    @property
    def rate(self) -> Rate | None:
        """The mean cost of a sample; None if the units hold none."""
        if not self.samples:
            return None
        return Rate(self.busy_s / 3600 / self.samples, self.size_bytes / self.samples)
