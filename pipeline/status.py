"""What is committed and what is left, stage by stage; read from storage, touching nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.receipts import Ledger, Receipt
from pipeline import inventory
from pipeline.plan import MapStep, Plan
from pipeline.units import Unit


@dataclass(frozen=True)
class Stage:
    """One stage: its units, and what is known of their cost."""

    name: str
    fingerprint: str | None  # None: decided by a stage that is not done yet
    units: int
    done: int
    samples: int
    recorded: int
    quarantined: int
    hours_left: float | None  # of one worker, as the committed units took; None before the first
    bytes_left: int | None

    def planned(self) -> tuple[str, ...]:
        """Return the cells of a plan's row."""
        hours = "unknown" if self.hours_left is None else f"{self.hours_left:.3f}"
        size = "unknown" if self.bytes_left is None else f"{self.bytes_left:,}"
        return self.name, str(self.units - self.done), str(self.units), str(self.samples), hours, size

    def achieved(self) -> tuple[str, ...]:
        """Return the cells of a status row."""
        counts = (self.done, self.units, self.recorded, self.quarantined)
        return self.name, *(str(count) for count in counts), self.fingerprint or "not known yet"


@dataclass(frozen=True)
class Status:
    """The state of a run."""

    shards: int
    new_shards: int
    stages: tuple[Stage, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.new_shards == 0 and all(stage.done == stage.units for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the status as plain values."""
        return {**asdict(self), "complete": self.complete}


def status_of(plan: Plan) -> Status:
    """Return the state of a run, from its listing and its receipts."""
    shards, missing = plan.inventories(), plan.missing_inventories()
    error_maps = plan.error_maps()
    chosen, everything = plan.units(shards, error_maps.selection), plan.units(shards, plan.everything)
    address = plan.train_segmenter()
    trained = plan.ledger.receipt(address)
    stages = [
        _stage(inventory.STAGE, inventory.FINGERPRINT, list(shards.values()), len(shards) + len(missing), 0),
        _map_stage(plan.ledger, error_maps, chosen),
        _stage(address.stage, address.fingerprint, [trained] if trained else [], 1, 0),
    ]
    if trained is not None:
        stages += [_map_stage(plan.ledger, step, everything) for step in plan.map_steps(trained)]
    else:
        names = ("predict_maps", "refine_maps", "invert")
        samples = sum(unit.stop - unit.first for unit in everything)
        stages += [Stage(name, None, len(everything), 0, samples, 0, 0, None, None) for name in names]
    return Status(len(plan.listed), len(missing), tuple(stages))


def _map_stage(ledger: Ledger, step: MapStep, units: Sequence[Unit]) -> Stage:
    names = {unit.name for unit in units}
    receipts = [r for r in ledger.receipts(step.stage.name, step.fingerprint) if r.unit in names]
    samples = sum(unit.stop - unit.first for unit in units)
    return _stage(step.stage.name, step.fingerprint, receipts, len(units), samples)


def _stage(name: str, fingerprint: str, receipts: Sequence[Receipt], units: int, samples: int) -> Stage:
    recorded, quarantined = sum(len(r.recorded) for r in receipts), sum(len(r.quarantined) for r in receipts)
    done = recorded + quarantined
    left = max(0, samples - done) if samples else 0
    hours = sum(float(str(r.info.get("computed_s", 0.0))) for r in receipts) / 3600
    size = sum(entry.size for r in receipts for entry in r.files)
    known = done > 0 or units == len(receipts)
    return Stage(
        name=name,
        fingerprint=fingerprint,
        units=units,
        done=len(receipts),
        samples=samples or done,
        recorded=recorded,
        quarantined=quarantined,
        hours_left=hours / max(done, 1) * left if known else None,
        bytes_left=round(size / max(done, 1) * left) if known else None,
    )
