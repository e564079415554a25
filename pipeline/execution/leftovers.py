"""What a successful run removes from its store: interrupted attempts, states of trainings, old indexes."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict

from infra.leftovers import collect
from infra.receipts import RECEIPTS, Ledger
from infra.stores.store import Entry
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.plan.plan import Plan
from pipeline.publish.parts import STAGE as PUBLISH
from pipeline.publish.pointer import address_in, read_pointer
from pipeline.training.states import FOLDER as STATES

INDEX_KEPT_S = 7 * 24 * 3600.0
"""How long an index stays after there is a newer one: readers may still use it."""
STATE_KEPT_S = INDEX_KEPT_S
"""How long the state of an uncommitted training stays: a training in progress writes another every minute."""


def remove_leftovers(plan: Plan) -> int:
    """Remove what is no longer needed and return the number of files; safe while other runs are at work."""
    return _drop_states(plan) + _drop_old_indexes(plan.ledger) + collect(plan.ledger)


def _drop_states(plan: Plan) -> int:
    """Delete the states of committed trainings, and of those that were not resumed for long."""
    store, before = plan.ledger.store, time.time() - STATE_KEPT_S
    trainings = [stage.name for stage in GRAPH.stages if not maps_samples(stage)]
    states = list(store.list(f"{STATES}/"))
    digests = {_training(entry) for entry in states}
    done = {digest for digest in digests if any(plan.ledger.units(stage, digest) for stage in trainings)}
    left = [entry.name for entry in states if _training(entry) in done or entry.modified < before]
    store.delete(left)
    return len(left)


def _training(state: Entry) -> str:
    return state.name.split("/")[1]


def _drop_old_indexes(ledger: Ledger) -> int:
    """Delete the indexes that were superseded long ago and are not pointed to: their receipts, then their files."""
    pointer = read_pointer(ledger)
    pointed = pointer.receipts if pointer else set()
    kinds = defaultdict[str, list[Entry]](list)
    for entry in ledger.store.list(f"{RECEIPTS}/{PUBLISH}/"):
        kinds[entry.name.rpartition("/")[2]].append(entry)
    count = 0
    for entries in kinds.values():
        entries.sort(key=lambda entry: entry.modified)
        for entry, newer in itertools.pairwise(entries):
            if newer.modified < time.time() - INDEX_KEPT_S and entry.name not in pointed:
                receipt = ledger.receipt(address_in(ledger, entry.name))
                files = [file.name for file in receipt.files] if receipt else []
                ledger.store.delete([entry.name])
                ledger.store.delete(files)
                count += 1 + len(files)
    return count
