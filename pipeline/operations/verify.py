"""Prove from storage alone that nothing was lost and nothing was done twice; give a remedy for each problem."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable

from infra.damage import Damages, set_aside
from infra.errors import BundleError, Damage, DamagedBundleError
from infra.receipts import Receipt, ReceiptHead
from pipeline.data import inventory
from pipeline.data.receipt_info import IndexInfo
from pipeline.data.trained_networks import TrainedEncoder, TrainedSegmenter
from pipeline.data.units import Shard, read_inventory
from pipeline.data.unread import Unread
from pipeline.operations.accounting import Account, Problem, damaged_problem, whole
from pipeline.operations.codes import unlike_their_rows, whole_with_codes
from pipeline.operations.verified import Verified
from pipeline.plan.plan import Plan
from pipeline.publish.contents import included_parts
from pipeline.publish.index import published, published_receipts, published_supervision
from pipeline.tune.trade_off import measured
from stages.train_encoder import TrainEncoder
from stages.train_segmenter import TrainSegmenter


def verify_run(
    plan: Plan, *, resume: bool = False, reached: Callable[[str], object] = str
) -> tuple[list[Problem], list[str]]:
    """Return the problems (none for a complete and whole run) and, stage by stage, the tally.

    For every stage each sample of its units must have exactly one outcome, recorded or quarantined, and every file of
    every bundle the size and checksum in its receipt, including those of a measured trade-off. All stored codes must
    unpack, and some, rendered again, have the PSNR of their rows. The published index must have a row for every sample.
    Damage of shards themselves is reported in addition. What is whole is noted in the run's folder until this ends:
    `resume` continues after an interruption, and does not read those files again. `reached` is told how many shards are
    verified.
    """
    verified = Verified(plan.config.folder, resume=resume)
    shards, problems = _inventories(plan)
    samples = sum(shard.samples for shard in shards)
    facts = [f"inventory: {len(shards)} shards, {samples} samples"]
    facts += [f"resumed: {len(verified)} bundles were read before the interruption"] if len(verified) else []
    facts += Unread.from_inventories(shards, plan.sources).lines()
    for shard, receipt in list(shards.items()):
        if wrong := whole(plan.ledger, receipt):
            problems += wrong
            del shards[shard]  # the content of its units is unknown
    steps = [plan.error_maps()]
    trained, wrong = _segmenter(plan)
    problems += wrong
    steps += plan.map_steps(trained) if trained is not None else ()
    accounts = [Account(step, verified, whole_with_codes if step.stage.located else None) for step in steps]
    for number, (shard, head) in enumerate(shards.items()):
        reached(f"{number} of {len(shards)} shards")
        samples_of_shard = read_inventory(plan.ledger, head)  # once, for all stages and units
        for account in accounts:
            account.check_shard(plan, shard, head, samples_of_shard)
    for account in accounts:
        facts.append(account.fact)
        problems += account.problems
    for step in steps:
        if step.stage.located:
            wrong, fact = unlike_their_rows(plan, step, shards)
            problems, facts = problems + wrong, [*facts, fact]
    if trained is not None:
        problems += _check_encoder(plan, trained)
        problems += _check_index(plan, samples)
        damaged: list[Damage] = []
        problems += [problem for receipt in measured(plan, damaged) for problem in whole(plan.ledger, receipt)]
        problems += map(damaged_problem, damaged)
    verified.end()
    return problems, facts


def repair(plan: Plan, problems: Iterable[Problem]) -> list[str]:
    """Set the receipts of all damaged bundles aside, so that their units run again; return what was done.

    A trained network with a whole checkpoint on this machine is restored instead: another training may differ.
    """
    told = []
    for damage in dict.fromkeys(problem.damage for problem in problems if problem.damage is not None):
        if restore_network(plan, damage):
            told.append(f"{damage.stage}: the checkpoint was restored from this machine's cache")
        elif name := set_aside(plan.ledger.store, damage):
            told.append(f"{damage.stage}: unit {damage.unit} runs again; its receipt is kept as {name}")
    return told


def restore_network(plan: Plan, damage: Damage) -> bool:
    """Restore a damaged checkpoint in the store if this machine has it, and return whether that made it whole."""
    kind = {TrainSegmenter.name: TrainedSegmenter, TrainEncoder.name: TrainedEncoder}.get(damage.stage)
    if kind is None:
        return False  # the address is not computed for thousands of bundles: it costs digests of weights, and a listing
    try:
        segmenter = plan.ledger.receipt(plan.train_segmenter())
        address = plan.trainings(segmenter).get(damage.stage)
        if address is None or damage.receipt != address.receipt_name:
            return False
        receipt = plan.ledger.receipt(address)
    except DamagedBundleError:
        return False
    return receipt is not None and kind(receipt).restore(plan.ledger)


def _inventories(plan: Plan) -> tuple[dict[Shard, ReceiptHead], list[Problem]]:
    damages = Damages()
    shards = plan.inventories(damages)
    problems = [damaged_problem(damage) for damage in damages.found]
    missing = plan.missing_inventories()
    return shards, problems + [Problem(inventory.STAGE, f"shard {one.entry.name} was not read yet") for one in missing]


def _segmenter(plan: Plan) -> tuple[Receipt | None, list[Problem]]:
    address = plan.train_segmenter()
    try:
        trained = plan.ledger.receipt(address)
    except DamagedBundleError as error:
        return None, [damaged_problem(damage) for damage in error.damages]
    if trained is None:
        return None, [Problem(address.stage, "no segmenter is trained yet")]
    return trained, whole(plan.ledger, trained)


def _check_encoder(plan: Plan, segmenter: Receipt) -> list[Problem]:
    address = plan.trainings(segmenter).get(TrainEncoder.name)
    if address is None:
        return []
    try:
        trained = plan.ledger.receipt(address)
    except DamagedBundleError as error:
        return [damaged_problem(damage) for damage in error.damages]
    return [Problem(address.stage, "no encoder is trained yet")] if trained is None else whole(plan.ledger, trained)


def _check_index(plan: Plan, samples: int) -> list[Problem]:
    try:
        index, supervision = published(plan.ledger), published_supervision(plan.ledger)
        every = published_receipts(plan.ledger)
    except DamagedBundleError as error:
        return [damaged_problem(damage) for damage in error.damages]
    except BundleError as error:
        return [Problem("publish", str(error).rpartition(";")[0])]
    if index is None or supervision is None:
        return [Problem("publish", "there is no index")]
    rows = IndexInfo.from_receipt(index).samples
    wrong = [] if rows == samples else [Problem("publish", f"the index has {rows} rows for {samples} samples")]
    wrong += _damaged_parts(plan, every)
    return wrong + [problem for receipt in every for problem in whole(plan.ledger, receipt)]


def _damaged_parts(plan: Plan, indexes: Iterable[Receipt]) -> list[Problem]:
    """Return a problem for each part of an index whose own receipt is damaged: readers do not need it, gc does."""
    addresses, damaged = dict.fromkeys(itertools.chain.from_iterable(map(included_parts, indexes))), list[Damage]()
    collections.deque(plan.ledger.heads_at(addresses, damaged), maxlen=0)
    return [damaged_problem(damage) for damage in damaged]
