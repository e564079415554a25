"""Sums over the receipts of a stage, added while they are read; no receipt is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic.dataclasses import dataclass

from infra.receipts import ReceiptHead
from pipeline.data.receipt_info import WorkInfo

Interval = tuple[float, float]
"""Begin and end, in seconds since 1970."""
_JOINED_AT = 4096


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
    samples: int = 0
    size_bytes: int = 0
    busy_s: float = 0.0
    worked: tuple[Interval, ...] = ()  # when any worker was busy, without overlaps
    devices: tuple[str, ...] = ()  # sorted, with their precision

    @classmethod
    def from_heads(cls, heads: Iterable[ReceiptHead]) -> Tally:
        """Return the sums over some receipts, read one after another."""
        units, recorded, quarantined, samples, size_bytes, busy_s = 0, 0, 0, 0, 0, 0.0
        worked, devices = list[Interval](), set[str]()
        for head in heads:
            work = WorkInfo.from_receipt(head)
            units += 1
            recorded, quarantined = recorded + head.recorded, quarantined + head.quarantined
            samples += head.samples if work.samples is None else work.samples
            size_bytes += head.size_bytes
            busy_s += work.busy_s
            worked.append((work.started, work.finished))
            devices |= {work.computed_on} if work.computed_on is not None else set()
            if len(worked) > _JOINED_AT:
                worked = list(joined(worked))
        return cls(units, recorded, quarantined, samples, size_bytes, busy_s, joined(worked), tuple(sorted(devices)))

    @classmethod
    def summed(cls, tallies: Iterable[Tally]) -> Tally:
        """Return the sums of some tallies."""
        every = list(tallies)
        return cls(
            units=sum(tally.units for tally in every),
            recorded=sum(tally.recorded for tally in every),
            quarantined=sum(tally.quarantined for tally in every),
            samples=sum(tally.samples for tally in every),
            size_bytes=sum(tally.size_bytes for tally in every),
            busy_s=sum(tally.busy_s for tally in every),
            worked=joined([interval for tally in every for interval in tally.worked]),
            devices=tuple(sorted({device for tally in every for device in tally.devices})),
        )

    @property
    def outcomes(self) -> int:
        """The number of samples that have an outcome."""
        return self.recorded + self.quarantined

    @property
    def seconds(self) -> float:
        """The time in which any worker was busy."""
        return sum(stop - start for start, stop in self.worked)

    @property
    def rate(self) -> Rate | None:
        """The mean cost of a sample; None if the units hold none."""
        if not self.outcomes:
            return None
        return Rate(self.busy_s / 3600 / self.outcomes, self.size_bytes / self.outcomes)


def joined(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """Return the union of intervals, in order, without overlaps."""
    union = list[Interval]()
    for start, stop in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = union[-1][0], max(union[-1][1], stop)
        elif stop > start:
            union.append((start, stop))
    return tuple(union)
