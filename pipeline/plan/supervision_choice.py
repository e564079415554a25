"""Which samples get error maps where a number of them is asked for: chosen once, and never chosen again.

Shards are chosen from in rounds. A round is what is new since the last one; of its samples those with the smallest
hashes are taken, as many as the number leaves. What earlier rounds took stays taken: new data adds samples until there
are as many as asked for, and then none, so no error map is made again and none is made for nothing. Each round is one
object of the store, put there in one atomic step.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from infra.damage import Damages
from infra.receipts import Ledger, ReceiptHead
from infra.stores.store import Store
from pipeline.config import Supervision
from pipeline.data.units import HASH_RANGE, Selection, Shard, choice_hash, read_inventory
from pipeline.errors import RunError

FOLDER = "supervision"
_NAME = re.compile(r"/(\d+)\.json$")


class Round(BaseModel):
    """What was taken of the shards that were new at one time."""

    below: int  # samples whose hash is below it are taken
    taken: dict[str, int]  # how many of each shard, by its name


@dataclass(frozen=True)
class Choice:
    """The rounds so far, and the one that is next if there are new shards."""

    settings: Supervision
    rounds: tuple[Round, ...]
    number: int  # of the next round: behind all others, also where one of them is gone
    next: Round | None
    left: int  # samples that later rounds may take

    @property
    def selection(self) -> Selection:
        """The samples chosen, those of the next round included."""
        rounds = (*self.rounds, self.next) if self.next else self.rounds
        below = {name: one.below for one in rounds for name, count in one.taken.items() if count}
        return Selection(self.settings, below, self.left)


def choose(
    ledger: Ledger, settings: Supervision, shards: Mapping[Shard, ReceiptHead], noted: Damages | None = None
) -> Choice:
    """Return the choice among these shards, with their inventories; writes nothing.

    New shards whose inventories are damaged are left out, and added to `noted`.
    """
    assert settings.number is not None
    numbered = _rounds(ledger.store, settings)
    rounds, number = tuple(numbered.values()), max(numbered, default=-1) + 1
    known = {name: count for one in rounds for name, count in one.taken.items()}
    matched = Selection(settings)
    candidates = {shard: receipt for shard, receipt in shards.items() if matched.share_of(shard.name)}
    left = max(0, settings.number - sum(known.get(name, 0) for name in {shard.name for shard in candidates}))
    new = {shard: receipt for shard, receipt in candidates.items() if shard.name not in known}
    if not new:
        return Choice(settings, rounds, number, None, left)
    found = _round(ledger, new, left, Damages() if noted is None else noted)
    return Choice(settings, rounds, number, found, left - min(left, sum(found.taken.values())))


def choose_for_good(ledger: Ledger, settings: Supervision, shards: Mapping[Shard, ReceiptHead]) -> Choice:
    """Return the choice among these shards, with the next round kept in the store, whoever else chooses."""
    while (choice := choose(ledger, settings, shards, damages := Damages())).next is not None:
        damages.check()
        name = f"{_prefix(settings)}{choice.number:06d}.json"
        ledger.store.create(name, choice.next.model_dump_json().encode())  # if another run was first, its round stands
    return choice


def _round(ledger: Ledger, new: Mapping[Shard, ReceiptHead], left: int, damages: Damages) -> Round:
    def hashes() -> Iterator[tuple[int, str]]:
        for shard, receipt in new.items():
            with damages.noted():
                yield from ((choice_hash(sample.key), shard.name) for sample in read_inventory(ledger, receipt))

    smallest = heapq.nsmallest(left + 1, hashes())
    below = smallest[left][0] if len(smallest) > left else HASH_RANGE
    taken = dict.fromkeys((shard.name for shard in new), 0)
    for value, name in smallest:
        taken[name] += value < below
    return Round(below=below, taken=taken)


def _rounds(store: Store, settings: Supervision) -> dict[int, Round]:
    """Return the rounds by their numbers, in order."""
    rounds = {}
    for entry in store.list(_prefix(settings)):
        if (named := _NAME.search(entry.name)) is None:
            continue
        try:
            rounds[int(named[1])] = Round.model_validate_json(store.read(entry.name))
        except ValidationError as error:
            raise RunError(
                f"{store.url}/{entry.name} does not say which samples were chosen for supervision "
                f"({error.errors()[0]['msg']}): put it back from a copy, or choose again under another "
                "supervision.samples"
            ) from error
    return dict(sorted(rounds.items()))


def _prefix(settings: Supervision) -> str:
    digest = hashlib.sha256(json.dumps(settings.identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"{FOLDER}/{digest}/"
