"""Computing an evaluation: every stage it needs, of the images it needs, unless committed; nothing is published."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from infra.receipts import ReceiptHead
from infra.stores import waiting
from pipeline.data.input_check import check_input
from pipeline.data.units import Shard, Unit
from pipeline.errors import RunError
from pipeline.evaluation.methods import Compared, compared, kind_of, plan_of, section_of
from pipeline.execution.run import Run
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from stages.invert import Invert

Shards = Mapping[Shard, ReceiptHead]


@dataclass(frozen=True)
class Computed:
    """An evaluation whose bundles are committed, except those of failed units."""

    plan: Plan
    methods: Sequence[Compared]
    units: int  # that this call computed


def computed(mill: Run) -> Computed:
    """Return an evaluation when everything possible is committed; the next call resumes from there.

    Raises:
        One of `pipeline.errors.USER_ERRORS`.
    """
    waiting.listen(mill.progress.waits)
    try:
        return mill.repairs.until_whole(lambda: _computed(mill))
    finally:
        mill.hosts.close()


def committed(plan: Plan) -> list[Compared]:
    """Return the methods of an evaluation, whatever is committed; raise `RunError` before anything is."""
    shards, segmenter = plan.inventories(), plan.ledger.receipt(plan.train_segmenter())
    section_of(plan)
    if not shards or segmenter is None:
        raise RunError("nothing is evaluated yet; `invertmill evaluate CONFIG` comes first")
    return compared(plan, shards, segmenter)


def _computed(mill: Run) -> Computed:
    plan = mill.checked_plan()
    _check_settings(plan)
    mill.scan(plan)
    with mill.progress.doing("reading the inventories"):
        shards = plan.inventories()
        if not shards:
            raise RunError(f"not one of {len(plan.listed)} shards could be read; run again to try once more")
        check_input(mill.config, plan.ledger, shards)
    segmenter = mill.supervise(plan, shards)
    with mill.progress.doing("choosing samples to evaluate"):
        methods = compared(plan, shards, segmenter)
    own = plan.map_steps(segmenter)
    for method in methods:
        mill.progress.say(f"{method.name}: {method.title}")
        _before(mill, method, shards)
        _map_own(mill, method, method.steps[Invert], shards)
        if method.editing is not None:
            _up_to_maps(mill, plan, own, method.samples.needed, shards)
            _map_own(mill, method, method.editing, shards)
    return Computed(plan, methods, mill.computed)


def _check_settings(plan: Plan) -> None:
    """Refuse settings that contradict each other, and missing weights, before any work."""
    for method in section_of(plan).methods:
        kind_of(method)
        plan_of(plan, method).check_weights()


def _before(mill: Run, method: Compared, shards: Shards) -> None:
    """Compute the stages before inversion: of the images of a method, or of all if they train an encoder."""
    encoder, plan, units = method.steps[Invert].encoder, method.plan, method.samples.needed
    untrained = encoder is not None and plan.ledger.receipt(encoder) is None
    if untrained:
        units = tuple(plan.units(shards, plan.everything))
    _up_to_maps(mill, plan, method.steps, units, shards)
    if untrained:
        mill.train_encoder(plan, shards, method.steps)


def _up_to_maps(mill: Run, plan: Plan, steps: Steps, units: Sequence[Unit], shards: Shards) -> None:
    """Compute the stages before inversion of some units of a run."""
    for step in itertools.takewhile(lambda step: step.stage.name != Invert.name, steps):
        mill.map_units(plan, step, _left(mill, plan.remaining(step, list(units))), shards)


def _map_own(mill: Run, method: Compared, step: MapStep, shards: Shards) -> None:
    """Compute a step on the images of a method; stages before inversion are cut as in a run."""
    samples = method.samples
    todo = _left(mill, method.plan.remaining(step, list(samples.units)))
    cuts = {name: samples.cut for name in step.upstream if name != Invert.name}
    mill.map_units(method.plan, replace(step, selection=samples.selection), todo, shards, cuts)


def _left(mill: Run, units: Sequence[Unit]) -> list[Unit]:
    """Return the units that this call has not given up."""
    return [unit for unit in units if unit.name not in mill.failed]
