"""What a run that ended well removes from its store: interrupted attempts, states of trainings, old indexes."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict

from infra.leftovers import collect
from infra.receipts import RECEIPTS, Ledger
from infra.store import Entry
from pipeline.index_parts import STAGE as PUBLISH
from pipeline.plan import Plan
from pipeline.pointer import address_in, read_pointer
from pipeline.training_states import FOLDER as STATES
from pipeline.training_states import drop_states

INDEX_KEPT_S = 7 * 24 * 3600.0
"""How long an index stays once there is a newer one: readers may hold it."""


def remove_leftovers(plan: Plan) -> int:
    """Remove what nobody needs any more and return how many files there were; safe while other runs are at work."""
    return _drop_committed_states(plan) + _drop_old_indexes(plan.ledger) + collect(plan.ledger)


def _drop_committed_states(plan: Plan) -> int:
    """Delete the states of trainings that are committed, whatever their recipe."""
    store, stage = plan.ledger.store, plan.train_segmenter().stage
    states = [entry.name.split("/")[1] for entry in store.list(f"{STATES}/")]
    committed = [fingerprint for fingerprint in set(states) if plan.ledger.units(stage, fingerprint)]
    for fingerprint in committed:
        drop_states(store, fingerprint)
    return sum(fingerprint in committed for fingerprint in states)


def _drop_old_indexes(ledger: Ledger) -> int:
    """Delete the indexes that were superseded long ago and are not pointed to: their receipts, then their files."""
    pointer = read_pointer(ledger)
    pointed = {pointer.receipt, pointer.supervision.receipt} if pointer else set()
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
