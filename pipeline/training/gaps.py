"""Gaps in a run's supervision, and their reasons: a segmenter is trained on all of it, or on a stated share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from infra.receipts import ReceiptHead
from pipeline.data.units import Shard, Unit
from pipeline.errors import RunError
from pipeline.jobs.reasons import by_kind
from pipeline.plan.plan import Plan
from stages.error_maps import ErrorMaps
from stages.train_segmenter import TrainSegmenter

REASONS_SHOWN = 4
PARTS = 10_000  # resolution of shares, rounded down, so that a name and a setting compare equal


@dataclass(frozen=True)
class Gaps:
    """The units of supervision that have no error maps, and the shards that could not be read."""

    missing: tuple[Unit, ...]
    present: int  # samples with error maps or a reason
    unread: tuple[str, ...]  # units of the inventory
    shards: int  # from which supervision is chosen, including unreadable ones

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> Gaps:
        """Return the gaps among the units that a segmenter is trained on."""
        step = plan.error_maps()
        units = [u for u in plan.units(shards, step.selection) if step.selection.trains_on(u.shard.name)]
        missing = tuple(plan.remaining(step, units))
        unread = [one.name for one in plan.missing_inventories() if step.selection.trains_on(one.entry.name)]
        present = sum(u.stop - u.first for u in units) - sum(u.stop - u.first for u in missing)
        read = sum(step.selection.trains_on(shard.name) for shard in shards)
        return cls(missing, present, tuple(unread), read + len(unread))

    @property
    def share(self) -> float:
        """The share of the supervision that is present; unreadable shards count as much as the others."""
        known = self.present + sum(unit.stop - unit.first for unit in self.missing)
        read = (self.shards - len(self.unread)) / max(1, self.shards)
        return math.floor(PARTS * read * (self.present / known if known else 1.0)) / PARTS

    @property
    def any(self) -> bool:
        """Whether anything is missing."""
        return bool(self.missing or self.unread)

    def check(self, minimum_share: float, failed: Mapping[str, str]) -> None:
        """Raise RunError, with the reasons of the failed units, if less is present than required."""
        if not self.any or self.share >= minimum_share > 0:
            return
        names = [*self.unread, *(unit.name for unit in self.missing)]
        reasons = {name: failed.get(name, "it was not run") for name in names}
        raise RunError(
            f"{TrainSegmenter.name} waits for all supervision, and {self._said()}:\n{most_frequent(reasons)}\n"
            "Run again to retry them. To train on what is present, set train_segmenter.minimum_share, now "
            f"{minimum_share:g}, to {self.share:g} or less"
        )

    def warning(self) -> str:
        """Return the note that a part is trained on."""
        return f"the segmenter is trained on {self.share:.2%} of the supervision: {self._said()}"

    def _said(self) -> str:
        parts = []
        if self.missing:
            samples = sum(unit.stop - unit.first for unit in self.missing)
            parts.append(f"{len(self.missing)} of its units ({samples} samples) have no error maps")
        if self.unread:
            parts.append(f"{len(self.unread)} of {self.shards} shards could not be read")
        return " and ".join(parts)


def check_examples(plan: Plan, units: Iterable[Unit]) -> None:
    """Raise RunError, with the reasons, if no sample may be trained on."""
    step, by_name = plan.error_maps(), {unit.name: unit for unit in units}
    recorded, reasons = 0, dict[str, str]()
    for receipt in plan.ledger.receipts(ErrorMaps.name, step.fingerprint):
        if (unit := by_name.get(receipt.unit)) is None:
            continue
        recorded += len(receipt.recorded)
        if any(step.selection.role(unit.shard.name, key) == "supervision" for key in receipt.recorded):
            return
        reasons |= receipt.quarantined
    chosen = "supervision.shards, supervision.share and supervision.held_out_share"
    if recorded:
        raise RunError(f"all {recorded} samples with error maps are held out for evaluation: change {chosen}")
    if not reasons:
        raise RunError(f"no sample is chosen for supervision: change {chosen}")
    raise RunError(
        f"there is nothing to train a segmenter on: all {len(reasons)} samples of the supervision were quarantined:\n"
        f"{most_frequent(reasons)}\nRepair the input, or choose other samples with {chosen}"
    )


def most_frequent(reasons: Mapping[str, str]) -> str:
    """Return the most frequent kinds of reasons, one line each: number, first name, and reason."""
    ordered = by_kind(reasons)
    lines = [f"  {len(names)} × {reasons[names[0]]} (first: {names[0]})" for names in ordered[:REASONS_SHOWN]]
    left = sum(len(names) for names in ordered[REASONS_SHOWN:])
    return "\n".join([*lines, f"  {left} others"] if left else lines)
