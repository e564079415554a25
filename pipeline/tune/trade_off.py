"""The cost of editability in fidelity: a few samples inverted at several thresholds, and the knee of that curve.

The samples are those with the smallest hash of shard and key, held-out ones first: the same while the data stays. The
result is committed under a fingerprint of everything that decides it, which excludes the configured threshold.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from infra.bundles import read_rows
from infra.errors import Damage
from infra.receipts import Address, Receipt
from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.data.reading import Chosen, Reader, Recorded, no_members
from pipeline.data.receipt_info import TradeOffInfo
from pipeline.data.records import ROWS
from pipeline.data.units import Selection
from pipeline.data.weights import weights_of
from pipeline.errors import ConfigError, RunError
from pipeline.jobs.map_job import ChosenSamples, MapJob
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from pipeline.tune.curve import Point, TradeOffCurve, point_of
from pipeline.tune.shares import Segments, maps_of, nothing_refined, reader_of, steps_of
from stages.base.stage import sample_seed
from stages.engine.memory import UNMEASURED
from stages.engine.schedule import Schedule
from stages.inversion.stage import InvertingStage
from stages.invert import Invert
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.trade_off import TradeOff, warm_schedule

_ROLES = ("held_out", None, "supervision")  # in this order; a segmenter predicts its training samples best
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A curve to measure: its job, and the groups of its samples."""

    job: MapJob
    parts: tuple[ChosenSamples, ...]

    @property
    def todo(self) -> list[ChosenSamples]:
        """The parts that are not committed yet."""
        done = self.job.ledger.units(self.job.name, self.job.fingerprint)
        return [part for part in self.parts if part.name not in done]


def even_groups(items: Sequence[T], largest: int) -> Iterator[Sequence[T]]:
    """Yield the items in the fewest groups of at most `largest`, all of about equal size."""
    count = -(-len(items) // max(1, largest))
    bounds = [len(items) * number // count for number in range(count + 1)]
    return (items[start:stop] for start, stop in itertools.pairwise(bounds))


def ask(plan: Plan) -> Asked:
    """Return the curve that a configuration requests.

    Raises:
        ConfigError: inversions start from the run's own encoder, which is trained for one threshold.
        RunError: no maps are refined yet, or their segments leave nothing to choose between.
    """
    if plan.config.invert.start.needs_training:
        raise ConfigError(
            "invert.start: the run's own encoder is trained for one threshold, so others cannot be compared from it; "
            "give tune another start, as --set 'invert.start={kind: learnt}', or name the file of an encoder"
        )
    steps = steps_of(plan)
    predict, refine, invert = steps[PredictMaps], steps[RefineMaps], steps.stage(Invert)
    shards = plan.inventories()
    chosen = choose(plan, refine, plan.config.trade_off.samples)
    thresholds = _thresholds(plan, reader_of(plan, shards), steps, chosen)
    stage = plan.stage(
        TradeOff,
        **{name: getattr(invert, name) for name in InvertingStage.model_fields},
        warm=_warm(plan, invert),
        thresholds=thresholds,
    )
    names = [(one.unit.name, one.key) for one in chosen]
    curve = hashlib.sha256(json.dumps([thresholds, names]).encode()).hexdigest()[:16]
    groups = list(even_groups(chosen, stage.batch if isinstance(stage.batch, int) else UNMEASURED))
    job = MapJob(
        stage=stage,
        fingerprint=fingerprint_of(plan, steps),
        sources=plan.sources,
        ledger=plan.ledger,
        upstream={step.stage.name: step.fingerprint for step in (predict, refine)},
        inventories={one.unit.shard: shards[one.unit.shard].unit for one in chosen},
        selection=Selection(),
        weights=weights_of(stage, plan.ledger.store, plan.config.compute),
        threads=plan.config.compute.cpus_per_worker,
        start=plan.start_codes(stage),
    )
    return Asked(job, tuple(_part(curve, number, groups) for number in range(len(groups))))


def _part(curve: str, number: int, groups: Sequence[Sequence[Chosen]]) -> ChosenSamples:
    """Return a group of a curve's samples that are inverted together; `curve` identifies its samples and thresholds."""
    name = f"{curve}-{number:03d}-of-{len(groups):03d}"
    return ChosenSamples(name, tuple(groups[number]), {"curve": curve, "parts": len(groups)})


def choose(plan: Plan, refine: MapStep, count: int) -> list[Chosen]:
    """Return up to `count` of the samples that have refined maps, unit by unit.

    Raises:
        RunError: there are none.
    """
    units = {unit.name: unit for unit in plan.units(plan.inventories(), plan.everything)}

    def every() -> Iterator[tuple[int, int, Chosen]]:
        for receipt in plan.ledger.receipts(refine.stage.name, refine.fingerprint):
            for key in receipt.recorded if receipt.unit in units else ():
                unit = units[receipt.unit]
                role = plan.supervision.role(unit.shard.name, key)
                yield _ROLES.index(role), sample_seed(0, f"trade off:{unit.shard.name}:{key}"), Chosen(unit, key, role)

    found = heapq.nsmallest(count, every(), key=lambda one: one[:2])
    if not found:
        raise nothing_refined(plan)
    return sorted((one for _, _, one in found), key=lambda one: (one.unit.name, one.key))


def measured(plan: Plan, damaged: list[Damage] | None = None) -> Iterator[Receipt]:
    """Yield the receipts of all curves that were measured with the run's maps, segments and settings.

    A damaged receipt is added to `damaged`, or raises `DamagedBundleError` if that is None.
    """
    return plan.ledger.receipts(TradeOff.name, fingerprint_of(plan, steps_of(plan)), damaged)


def committed_curve(plan: Plan) -> TradeOffCurve | None:
    """Return the newest of those curves that is whole, None if there is none."""
    by_curve: defaultdict[str, list[Receipt]] = defaultdict(list)
    for receipt in measured(plan):
        by_curve[TradeOffInfo.from_receipt(receipt).curve].append(receipt)
    whole = [parts for parts in by_curve.values() if len(parts) == TradeOffInfo.from_receipt(parts[0]).parts]
    if not whole:
        return None
    return _curve(plan, max(whole, key=lambda parts: max(TradeOffInfo.from_receipt(part).finished for part in parts)))


def curve_of(plan: Plan, asked: Asked) -> TradeOffCurve:
    """Return a curve all of whose parts are committed.

    Raises:
        RunError: none of its samples could be inverted.
    """
    found = [plan.ledger.receipt(Address(asked.job.name, asked.job.fingerprint, part.name)) for part in asked.parts]
    parts = [receipt for receipt in found if receipt is not None]
    curve = _curve(plan, parts)
    if curve is None:
        reason = next((reason for part in parts for reason in part.quarantined.values()), "its bundles are gone")
        raise RunError(f"the trade-off could not be measured, no sample was inverted: {reason}")
    return curve


def _curve(plan: Plan, parts: Sequence[Receipt]) -> TradeOffCurve | None:
    every = [row for part in parts for row in read_rows(plan.ledger.read_file(part, ROWS))]
    rows = [row for row in every if row["outcome"] == "recorded"]
    if not rows:
        return None
    return TradeOffCurve.from_rows(rows, plan.spaces, _configured(plan, rows), len(every) - len(rows))


def _configured(plan: Plan, rows: Sequence[Row]) -> Point | None:
    """Return the run's own results for these samples, each inverted from the start at the configured threshold."""
    invert = steps_of(plan)[Invert]
    shards = plan.inventories()
    units, reader = {unit.name: unit for unit in plan.units(shards, plan.everything)}, reader_of(plan, shards)
    wanted = [Recorded(invert.stage.name, invert.fingerprint, arrays=())]
    found = []
    for name, of_unit in itertools.groupby(rows, key=lambda row: str(row["unit"])):
        if name not in units:
            return None
        listed = reader.chosen(units[name], [row["key"] for row in of_unit])
        for _, sample in reader.read(units[name], listed, wanted, no_members):
            if isinstance(sample, str):
                return None
            found.append(sample.records[invert.stage.name].row)
    return point_of(plan.config.refine_maps.threshold, found, plan.spaces)


def _thresholds(plan: Plan, reader: Reader, steps: Steps, chosen: Sequence[Chosen]) -> tuple[float, ...]:
    """Return thresholds at which the editable area of the samples is roughly evenly spaced, descending."""
    maps = (
        one
        for unit, of_unit in itertools.groupby(chosen, key=lambda one: one.unit)
        for one in maps_of(reader, steps, unit, [one.key for one in of_unit])
    )
    thresholds = Segments.from_maps(maps, len(plan.spaces)).evenly_editable(plan.config.trade_off.points)
    if len(thresholds) < 2:
        raise RunError(
            f"there is nothing to choose between: {len(chosen)} samples are assigned the same spaces at every "
            "threshold; use more of them (trade_off.samples), or finer segments (refine_maps.segmentation)"
        )
    return tuple(reversed(thresholds))


def _warm(plan: Plan, invert: Invert) -> Schedule | None:
    """Return the schedule of warm starts, None for equal starts."""
    share = plan.config.trade_off.warm_share
    return None if share is None else warm_schedule(invert.schedule, share)


def fingerprint_of(plan: Plan, steps: Steps) -> str:
    """Return the digest of everything that decides a curve except samples and thresholds, which name its bundles."""
    refine, invert = steps.stage(RefineMaps), steps.stage(Invert)
    settings = settings_of(invert, invert.indifferent | {"method"})  # sweeps are optimised
    settings["warm"] = _warm(plan, invert)
    settings["segments"] = settings_of(refine, refine.indifferent | {"threshold"})
    return fingerprint(
        TradeOff.name, TradeOff.version, settings, [steps[PredictMaps].fingerprint], extra={"segments": refine.version}
    )
