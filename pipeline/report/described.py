"""What `invertmill report` describes: what is published, or what `--set` selects; and whether a report is current."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra.errors import NotFoundError
from infra.receipts import Receipt, ReceiptHead
from pipeline.config import RunConfig
from pipeline.data.stores import Stores
from pipeline.data.units import Shard
from pipeline.errors import RunError
from pipeline.plan.graph import GRAPH
from pipeline.plan.plan import Plan
from pipeline.publish.index import INVENTORIES, Index, read_inventories
from pipeline.publish.pointer import Pointer, address_in, read_pointer
from pipeline.publish.settings import with_settings
from stages.train_segmenter import TrainSegmenter

if TYPE_CHECKING:
    from pipeline.execution.run import RunResult

REPORTS = "reports"
"""Prefix of the names of the published report's files."""


def described(config: RunConfig, *, asked: bool) -> RunResult:
    """Return the result that a report is about; publish nothing, compute nothing.

    Args:
        config: of the run.
        asked: whether settings were given with `--set`; then the result with those, if it is not the published one.

    Raises:
        RunError: nothing is published, or the selected result is not computed.
    """
    stores = Stores.from_config(config)
    stores.check(write=False)
    pointer = read_pointer(stores.ledger)
    if asked:
        plan = Plan(config, stores)
        if pointer is None or _fingerprints(plan) != pointer.stages:
            return _asked(plan)
    if pointer is None:
        raise RunError("there is nothing to report: nothing is published yet; `invertmill run` comes first")
    return _published(Plan(with_settings(config, pointer.settings), stores), pointer)


def is_reported(finished: RunResult) -> bool:
    """Return whether the report in the run's folder, and the one next to the bundles, are about this result."""
    folder, store, name = finished.plan.config.folder, finished.plan.ledger.store, "summary.json"
    try:
        own = (folder / name).read_bytes()
        beside = store.read(f"{REPORTS}/{name}")
    except (OSError, NotFoundError):
        return False
    wanted = finished.published.address.receipt_name
    return (folder / "report.html").is_file() and all(_index_of(summary) == wanted for summary in (own, beside))


def _index_of(summary: bytes) -> str | None:
    try:
        found = json.loads(summary).get("index")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _asked(plan: Plan) -> RunResult:
    from pipeline.execution.run import RunResult

    segmenter = plan.ledger.receipt(plan.train_segmenter())
    if segmenter is None:
        raise RunError(
            "there is nothing to report: no segmenter is trained with these settings; `invertmill run` with the same "
            "settings comes first"
        )
    shards, unread = plan.inventories(), len(plan.missing_inventories())
    index = Index.from_plan(plan, shards, segmenter, unread)
    last = index.steps.last
    missing = plan.remaining(last, list(index.units))
    if len(missing) == len(index.units):
        raise RunError(
            f"there is nothing to report: with these settings {last.stage.name} has 0 of {len(missing)} units; "
            "`invertmill run` with the same settings comes first; without --set, the report is of what is published"
        )
    return RunResult(plan, shards, index, index.commit(), {}, 0, moved=False, gaps=index.gaps())


def _published(plan: Plan, pointer: Pointer) -> RunResult:
    from pipeline.execution.run import RunResult

    receipt = plan.ledger.receipt(address_in(plan.ledger, pointer.receipt))
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    if receipt is None:
        raise RunError("the published index is gone; `invertmill run` makes and publishes it again")
    differing = [name for name, found in _fingerprints(plan).items() if pointer.stages.get(name, found) != found]
    if segmenter is None or differing:
        raise RunError(
            "what is published was made by another version or with other weights than this configuration names "
            f"({', '.join(differing) or TrainSegmenter.name} differs); name the weights it was made with, or "
            "`invertmill run` makes and publishes it again"
        )
    shards = _shards(plan, receipt)
    return RunResult(plan, shards, Index.from_plan(plan, shards, segmenter), receipt, {}, 0, True, pointer.gaps)


def _shards(plan: Plan, receipt: Receipt) -> dict[Shard, ReceiptHead]:
    named = any(entry.filename == INVENTORIES for entry in receipt.files)  # missing in earlier versions
    return read_inventories(plan.ledger, receipt) if named else plan.inventories()


def _fingerprints(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of all stages that decide what is published, as far as they are known."""
    address = plan.train_segmenter()
    steps = plan.steps(plan.ledger.receipt(address))
    decided = {name: digest for name, digest in steps.fingerprints.items() if name not in GRAPH.optional}
    return decided | {address.stage: address.fingerprint}
