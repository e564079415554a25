"""The samples that get error maps, if a number of them is requested: chosen once, and never again.

Samples are chosen in rounds. A round covers the shards that are new since the last one, and takes their samples with
the smallest hashes until the number is reached. Earlier choices stay: new data adds samples until
the number is reached, and then none, so no error map is made again and none is made in vain. Each round is one
object of the store, created in one atomic step.
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
    """The samples taken from the shards that were new at one time."""

    below: int  # samples whose hash is below it are taken
    taken: dict[str, int]  # their number per shard, by its name


@dataclass(frozen=True)
class Choice:
    """The rounds so far, and the next one if there are new shards."""

    settings: Supervision
    rounds: tuple[Round, ...]
    number: int  # of the next round: after all others, even if one of them is missing
    next: Round | None
    left: int  # samples that later rounds may take

    @property
    def selection(self) -> Selection:
        """The chosen samples, including those of the next round."""
        rounds = (*self.rounds, self.next) if self.next else self.rounds
        below = {name: one.below for one in rounds for name, count in one.taken.items() if count}
        return Selection(self.settings, below, self.left)


def choose(
    ledger: Ledger, settings: Supervision, shards: Mapping[Shard, ReceiptHead], noted: Damages | None = None
) -> Choice:
    """Return the choice among these shards, with their inventories; write nothing.

    New shards whose inventories are damaged are omitted, and added to `noted`.
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
    """Return the choice among these shards, with the next round kept in the store, even if others choose too."""
    while (choice := choose(ledger, settings, shards, damages := Damages())).next is not None:
        damages.check()
        name = f"{_prefix(settings)}{choice.number:06d}.json"
        ledger.store.create(name, choice.next.model_dump_json().encode())  # if another run was first, its round counts
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
                f"({error.errors()[0]['msg']}): restore it from a copy, or choose again under another "
                "supervision.samples"
            ) from error
    return dict(sorted(rounds.items()))


def _prefix(settings: Supervision) -> str:
    digest = hashlib.sha256(json.dumps(settings.identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"{FOLDER}/{digest}/"
