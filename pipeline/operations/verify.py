"""Proves from storage alone that nothing was lost and nothing was done twice, and says what to do where it was."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from infra.damage import Damages, set_aside
from infra.errors import BundleError, Damage, DamagedBundleError
from infra.receipts import Receipt, damage_of
from pipeline.data import inventory
from pipeline.data.trained_segmenter import TrainedSegmenter
from pipeline.data.units import Selection, Shard, Unit, outcome_key, read_inventory
from pipeline.data.unread import Unread
from pipeline.plan.plan import MapStep, Plan
from pipeline.publish.index import published, published_supervision
from pipeline.tune.trade_off import measured
from stages.train_segmenter import TrainSegmenter

AGAIN = "run again"
REPAIR = "`invertmill verify --repair`, then run again"


@dataclass(frozen=True)
class Problem:
    """Something that is missing or damaged, and what makes it whole."""

    stage: str
    what: str
    remedy: str = AGAIN
    damage: Damage | None = None  # of a committed bundle, which `repair` sees to

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}; {self.remedy}"


def verify_run(plan: Plan) -> tuple[list[Problem], list[str]]:
    """Return what is wrong (nothing, for a complete and whole run) and, stage by stage, what was found.

    For every stage each sample of its units must have exactly one outcome, recorded or quarantined, and every file of
    every bundle the size and checksum that its receipt states, as those of a measured trade-off. The published index
    must have a row for every sample. What is wrong with shards themselves is told beside what was found.
    """
    shards, problems = _inventories(plan)
    samples = sum(shard.samples for shard in shards)
    facts = [f"inventory: {len(shards)} shards, {samples} samples"]
    facts += Unread.from_inventories(shards, plan.sources).lines()
    for shard, receipt in list(shards.items()):
        if wrong := _whole(plan, receipt):
            problems += wrong
            del shards[shard]  # what its units should hold is not known
    steps = [plan.error_maps()]
    trained, wrong = _segmenter(plan)
    problems += wrong
    steps += plan.map_steps(trained) if trained is not None else ()
    for step in steps:
        units = plan.units(shards, step.selection)
        expected = _expected(plan, shards, units, step.selection)
        found, wrong = _check_step(plan, step, units, expected)
        facts.append(found)
        problems += wrong
    if trained is not None:
        problems += _check_index(plan, samples)
        damaged: list[Damage] = []
        problems += [problem for receipt in measured(plan, damaged) for problem in _whole(plan, receipt)]
        problems += map(_damaged, damaged)
    return problems, facts


def repair(plan: Plan, problems: Iterable[Problem]) -> list[str]:
    """Set the receipts of all damaged bundles aside, so that their units run again; return what was done.

    A segmenter whose checkpoint this machine has whole is put back instead: one trained again may differ.
    """
    told = []
    for damage in dict.fromkeys(problem.damage for problem in problems if problem.damage is not None):
        if restore_segmenter(plan, damage):
            told.append(f"{damage.stage}: the checkpoint was put back from {plan.config.folder}")
        elif name := set_aside(plan.ledger.store, damage):
            told.append(f"{damage.stage}: unit {damage.unit} runs again; its receipt is kept as {name}")
    return told


def restore_segmenter(plan: Plan, damage: Damage) -> bool:
    """Put a damaged checkpoint back into the store if this machine has it, and return whether that made it whole."""
    if damage.stage != TrainSegmenter.name:
        return False  # the address is not asked for thousands of bundles: it costs digests of weights, and a listing
    address = plan.train_segmenter()
    if damage.receipt != address.receipt_name:
        return False
    try:
        receipt = plan.ledger.receipt(address)
    except DamagedBundleError:
        return False
    return receipt is not None and TrainedSegmenter.of(receipt, plan.config.folder).restore(plan.ledger)


def _inventories(plan: Plan) -> tuple[dict[Shard, Receipt], list[Problem]]:
    damages = Damages()
    shards = plan.inventories(damages)
    problems = [_damaged(damage) for damage in damages.found]
    missing = plan.missing_inventories()
    return shards, problems + [Problem(inventory.STAGE, f"shard {one.entry.name} was not read yet") for one in missing]


def _segmenter(plan: Plan) -> tuple[Receipt | None, list[Problem]]:
    address = plan.train_segmenter()
    try:
        trained = plan.ledger.receipt(address)
    except DamagedBundleError as error:
        return None, [_damaged(damage) for damage in error.damages]
    if trained is None:
        return None, [Problem(address.stage, "no segmenter is trained yet")]
    return trained, _whole(plan, trained)


def _check_step(
    plan: Plan, step: MapStep, units: Sequence[Unit], expected: dict[str, list[str]]
) -> tuple[str, list[Problem]]:
    """Return a stage's tally and its problems."""
    name, damaged = step.stage.name, list[Damage]()
    receipts = {r.unit: r for r in plan.ledger.receipts(name, step.fingerprint, damaged)}
    unreadable = {damage.unit for damage in damaged}
    problems = [_damaged(damage) for damage in damaged if damage.unit in expected]
    recorded, quarantined, seen = 0, 0, Counter[tuple[str, str]]()
    for unit in units:
        receipt = receipts.get(unit.name)
        if receipt is None:
            problems += [] if unit.name in unreadable else [Problem(name, f"unit {unit.name} has no bundle")]
            continue
        problems += _unaccounted(receipt, expected[unit.name]) + _whole(plan, receipt)
        seen.update((unit.shard.slug, key) for key in receipt.outcomes)
        recorded, quarantined = recorded + len(receipt.recorded), quarantined + len(receipt.quarantined)
    twice = [(shard, key, count) for (shard, key), count in seen.items() if count > 1]
    problems += [Problem(name, f"{key} of {shard} is recorded {count} times", REPAIR) for shard, key, count in twice]
    total = sum(len(keys) for keys in expected.values())
    return f"{name}: {total} samples = {recorded} recorded + {quarantined} quarantined", problems


def _check_index(plan: Plan, samples: int) -> list[Problem]:
    try:
        index, supervision = published(plan.ledger), published_supervision(plan.ledger)
    except DamagedBundleError as error:
        return [_damaged(damage) for damage in error.damages]
    except BundleError as error:
        return [Problem("publish", str(error).rpartition(";")[0])]
    if index is None or supervision is None:
        return [Problem("publish", "there is no index")]
    rows = index.info["samples"]
    wrong = [] if rows == samples else [Problem("publish", f"the index has {rows} rows for {samples} samples")]
    return wrong + _whole(plan, index) + _whole(plan, supervision)


def _expected(
    plan: Plan, shards: Mapping[Shard, Receipt], units: Sequence[Unit], selection: Selection
) -> dict[str, list[str]]:
    """Return the samples of every unit; each inventory is read once."""
    expected: dict[str, list[str]] = {}
    for shard, of_shard in itertools.groupby(units, key=lambda unit: unit.shard):
        samples = read_inventory(plan.ledger, shards[shard])
        keys = [outcome_key(sample) for sample in samples if selection.includes(shard.name, sample.key)]
        expected |= {unit.name: keys[unit.first : unit.stop] for unit in of_shard}
    return expected


def _unaccounted(receipt: Receipt, expected: Iterable[str]) -> list[Problem]:
    wanted, got = set(expected), set(receipt.outcomes)
    wrong = [f"{key} of unit {receipt.unit} has no outcome" for key in sorted(wanted - got)]
    wrong += [f"{key} of unit {receipt.unit} is not in the inventory" for key in sorted(got - wanted)]
    damage = damage_of(receipt, "its outcomes are not those of its samples")
    return [Problem(receipt.stage, what, REPAIR, damage) for what in wrong]


def _whole(plan: Plan, receipt: Receipt) -> list[Problem]:
    wrong = plan.ledger.verify(receipt)
    return [Problem(receipt.stage, what, REPAIR, damage_of(receipt, "; ".join(wrong))) for what in wrong]


def _damaged(damage: Damage) -> Problem:
    return Problem(damage.stage, damage.what, REPAIR, damage)
