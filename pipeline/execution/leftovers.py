"""What a successful run removes from its store: interrupted attempts, states of trainings, old indexes."""

from __future__ import annotations

import time

from infra.leftovers import collect
from pipeline.operations.garbage import delete, of_indexes, of_states
from pipeline.plan.plan import Plan

KEPT_S = 7 * 24 * 3600.0
"""How long an index stays after there is a newer one, since readers may still use it; how long the state of an
uncommitted training stays: a training in progress writes another every minute."""


def remove_leftovers(plan: Plan) -> int:
    """Remove what is no longer needed and return the number of files; safe while other runs are at work."""
    before = time.time() - KEPT_S
    return delete(plan.ledger, [of_states(plan, before), of_indexes(plan.ledger, 1, before)]) + collect(plan.ledger)
