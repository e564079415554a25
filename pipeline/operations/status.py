"""Committed and remaining work, stage by stage; read from storage, changing nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.receipts import Address, ReceiptHead
from pipeline.data import inventory
from pipeline.data.input_check import check_input
from pipeline.data.receipt_info import WorkInfo
from pipeline.data.tally import Rate, Tally
from pipeline.data.units import Selection, Shard, Unit
from pipeline.errors import RunError
from pipeline.operations.expected import Expected, expected_of
from pipeline.operations.guessed import bytes_at_most
from pipeline.operations.redone import cut_warning, settings_warning
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep
from pipeline.publish.tallies import Tallies


@dataclass(frozen=True)
class Stage:
    """One stage: its units, and their known cost."""

    name: str
    fingerprint: str | None  # None: depends on a stage that is not done yet
    units: int
    done: int
    samples: int
    recorded: int
    quarantined: int
    hours_left: float | None  # of one worker, as measured on committed units; None if the store has none of this stage
    bytes_left: int | None
    bytes_guessed: bool = False  # from shapes: an upper bound

    def planned(self) -> tuple[str, ...]:
        """Return the cells of a plan's row."""
        hours = "unknown" if self.hours_left is None else f"{self.hours_left:.3f}"
        most = "at most " if self.bytes_guessed else ""
        size = "unknown" if self.bytes_left is None else f"{most}{self.bytes_left:,}"
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
    basis: str = ""  # how the samples of new shards are estimated
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.new_shards == 0 and all(stage.done == stage.units for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the status as plain values."""
        return {**asdict(self), "complete": self.complete}


def status_of(plan: Plan, *, ahead: bool = False) -> Status:
    """Return the state of a run, from its listing and its receipts.

    Args:
        plan: of the run.
        ahead: also count the estimated content of new shards, and warn of work that is redone.
    """
    shards, missing = plan.inventories(), plan.missing_inventories()
    expected = expected_of(plan, shards, missing) if ahead else Expected()
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    steps, units, trainings = plan.steps(segmenter), _units(plan, shards), plan.trainings(segmenter)
    counts = _Counts(plan, Tallies(plan.ledger), expected, ahead)
    stages = [counts.inventory(shards.values(), len(missing))]
    for stage in plan.stages:
        if maps_samples(stage):
            stages.append(counts.mapped(stage.name, steps.get(stage), units[stage.name], plan.selection(stage)))
        else:
            stages.append(counts.trained(stage.name, trainings[stage.name]))
    stages = _with_guesses(plan, stages) if ahead else stages
    warnings = _warnings(plan, stages, units) if ahead else ()
    lacks = _lacks(plan, shards) if ahead and shards else ()
    return Status(len(plan.listed), len(missing), tuple(stages), expected.basis, (*warnings, *lacks))


@dataclass(frozen=True)
class _Counts:
    """Counts the units of stages, including the estimated ones of new shards."""

    plan: Plan
    tallies: Tallies
    expected: Expected
    ahead: bool

    def inventory(self, heads: Iterable[ReceiptHead], missing: int) -> Stage:
        tally, new = Tally.from_heads(heads), sum(self.expected.samples.values())
        units, samples = tally.units + missing, tally.outcomes + new
        return _stage(inventory.STAGE, inventory.FINGERPRINT, tally, units=units, samples=samples, rate=tally.rate)

    def mapped(self, name: str, step: MapStep | None, units: Sequence[Unit], selection: Selection) -> Stage:
        tally = Tally() if step is None else self.tallies.of(step, units)
        new = self.expected.chosen(selection)
        size = self.plan.config.unit_samples
        samples = sum(unit.stop - unit.first for unit in units) + sum(new)
        count = len(units) + sum(math.ceil(chosen / size) for chosen in new)
        rate = tally.rate or Tally.from_heads(self._others(name)).rate
        digest = None if step is None else step.fingerprint
        return _stage(name, digest, tally, units=count, samples=samples, rate=rate)

    def trained(self, name: str, address: Address | None) -> Stage:
        """A training has no samples to extrapolate from: a previous one of this store took the same time."""
        receipt = None if address is None else self.plan.ledger.receipt(address)
        digest = None if address is None else address.fingerprint
        if receipt is not None:
            tally = Tally.from_heads([receipt.head])
            return _stage(name, digest, tally, units=1, samples=tally.outcomes, rate=None)
        stage = _stage(name, digest, Tally(), units=1, samples=0, rate=None)
        earlier = next(iter(self._others(name)), None)
        if earlier is None:
            return stage
        hours = WorkInfo.from_receipt(earlier).busy_s / 3600
        return replace(stage, hours_left=hours, bytes_left=earlier.size_bytes)

    def _others(self, name: str) -> Iterable[ReceiptHead]:
        """Return the receipts of the stage under the settings with most units in the store."""
        held = self.plan.ledger.fingerprints(name) if self.ahead else {}
        most = max(held, key=lambda digest: len(held[digest]), default=None)
        return () if most is None else self.plan.ledger.heads(name, most)


def _with_guesses(plan: Plan, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages with an estimate of their bytes, if the store has no measurement."""
    if all(stage.bytes_left is not None for stage in stages):
        return list(stages)
    most = bytes_at_most(plan)
    return [
        replace(one, bytes_left=most[one.name] * (one.samples - one.recorded - one.quarantined), bytes_guessed=True)
        if one.bytes_left is None and one.name in most
        else one
        for one in stages
    ]


def _units(plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> dict[str, Sequence[Unit]]:
    """Return the units of every map stage by its name."""
    supervised, everything = plan.units(shards, plan.supervision), plan.units(shards, plan.everything)
    mapped = filter(maps_samples, plan.stages)
    return {stage.name: supervised if stage.supervision_only else everything for stage in mapped}


def _warnings(plan: Plan, stages: Sequence[Stage], units: Mapping[str, Sequence[Unit]]) -> Iterator[str]:
    """Yield notes for users before the planned run."""
    cuts = (
        cut_warning(plan, plan.ledger.units(stage.name, stage.fingerprint), units[stage.name])
        for stage in stages
        if stage.name in units and stage.fingerprint is not None
    )
    yield from itertools.islice(filter(None, cuts), 1)  # of one stage: all are cut alike
    apart = {inventory.STAGE, *GRAPH.optional}  # other edits are new work
    if warning := settings_warning(plan, [(s.name, s.fingerprint) for s in stages if s.name not in apart]):
        yield warning


def _lacks(plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> tuple[str, ...]:
    """Return why the run would refuse its input, judging by the shards read so far."""
    try:
        check_input(plan.config, plan.ledger, shards)
    except RunError as error:
        return (str(error),)
    return ()


def _stage(name: str, fingerprint: str | None, tally: Tally, *, units: int, samples: int, rate: Rate | None) -> Stage:
    left = max(0, samples - tally.outcomes)
    if units == tally.units:
        rate = rate or Rate(0.0, 0.0)
    return Stage(
        name=name,
        fingerprint=fingerprint,
        units=units,
        done=tally.units,
        samples=samples,
        recorded=tally.recorded,
        quarantined=tally.quarantined,
        hours_left=rate.hours * left if rate else None,
        bytes_left=round(rate.size_bytes * left) if rate else None,
    )
