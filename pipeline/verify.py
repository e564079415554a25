"""Proves from storage alone that nothing was lost and nothing was done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from infra.errors import BundleError
from infra.receipts import Receipt
from pipeline.plan import MapStep, Plan
from pipeline.publish import published, published_supervision
from pipeline.trade_off import measured
from pipeline.units import Selection, Unit, outcome_key, read_inventory


def verify_run(plan: Plan) -> tuple[list[str], list[str]]:
    """Return what is wrong (nothing, for a complete and whole run) and, stage by stage, what was found.

    For every stage each sample of its units must have exactly one outcome, recorded or quarantined, and every file of
    every bundle the size and checksum that its receipt states, as those of a measured trade-off. The published index
    must have a row for every sample.
    """
    shards = plan.inventories()
    problems = [f"shard {one.entry.name} has no inventory yet; run again" for one in plan.missing_inventories()]
    samples = sum(shard.samples for shard in shards)
    facts = [f"inventory: {len(shards)} shards, {samples} samples"]
    for shard, receipt in list(shards.items()):
        if wrong := _whole(plan, receipt):
            problems += wrong
            del shards[shard]  # what its units should hold is not known
    steps = [plan.error_maps()]
    trained = plan.ledger.receipt(plan.train_segmenter())
    if trained is None:
        problems.append("train_segmenter has no bundle yet; run again")
    else:
        problems += _whole(plan, trained)
        steps += plan.map_steps(trained)
    for step in steps:
        units = plan.units(shards, step.selection)
        expected = {unit.name: _expected(plan, shards[unit.shard], unit, step.selection) for unit in units}
        found, wrong = _check_step(plan, step, units, expected)
        facts.append(found)
        problems += wrong
    if trained is not None:
        problems += _check_index(plan, samples)
        problems += [problem for receipt in measured(plan) for problem in _whole(plan, receipt)]
    return problems, facts


def _check_step(
    plan: Plan, step: MapStep, units: Sequence[Unit], expected: dict[str, list[str]]
) -> tuple[str, list[str]]:
    """Return a stage's tally and its problems."""
    problems, recorded, quarantined, seen = [], 0, 0, Counter[tuple[str, str]]()
    receipts = {r.unit: r for r in plan.ledger.receipts(step.stage.name, step.fingerprint)}
    for unit in units:
        receipt = receipts.get(unit.name)
        if receipt is None:
            problems.append(f"{step.stage.name}: unit {unit.name} has no bundle; run again")
            continue
        problems += _unaccounted(step.stage.name, unit.name, expected[unit.name], receipt.outcomes)
        problems += _whole(plan, receipt)
        seen.update((unit.shard.slug, key) for key in receipt.outcomes)
        recorded, quarantined = recorded + len(receipt.recorded), quarantined + len(receipt.quarantined)
    problems += [
        f"{step.stage.name}: {key} of {shard} is recorded {n} times" for (shard, key), n in seen.items() if n > 1
    ]
    total = sum(len(keys) for keys in expected.values())
    return f"{step.stage.name}: {total} samples = {recorded} recorded + {quarantined} quarantined", problems


def _check_index(plan: Plan, samples: int) -> list[str]:
    try:
        index, supervision = published(plan.ledger), published_supervision(plan.ledger)
    except BundleError as error:
        return [f"publish: {error}"]
    if index is None or supervision is None:
        return ["publish: there is no index; run again"]
    rows = index.info["samples"]
    wrong = [] if rows == samples else [f"publish: the index has {rows} rows for {samples} samples; run again"]
    return wrong + _whole(plan, index) + _whole(plan, supervision)


def _expected(plan: Plan, inventory: Receipt, unit: Unit, selection: Selection) -> list[str]:
    samples = read_inventory(plan.ledger, inventory)
    chosen = [sample for sample in samples if selection.includes(unit.shard.name, sample.key)]
    return [outcome_key(sample) for sample in chosen[unit.first : unit.stop]]


def _unaccounted(stage: str, unit: str, expected: Iterable[str], found: Iterable[str]) -> list[str]:
    wanted, got = set(expected), set(found)
    missing = [f"{stage}: {key} of unit {unit} has no outcome" for key in sorted(wanted - got)]
    return missing + [f"{stage}: {key} of unit {unit} is not in the inventory" for key in sorted(got - wanted)]


def _whole(plan: Plan, receipt: Receipt) -> list[str]:
    return [f"{receipt.stage}: {problem}" for problem in plan.ledger.verify(receipt)]
