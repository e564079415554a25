"""The account of one stage: every sample of its units has one outcome, and every file matches its receipt."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.errors import Damage
from infra.receipts import Address, AnyReceipt, Ledger, Receipt, ReceiptHead, damage_of
from infra.shards.shards import ShardSample
from pipeline.data.units import Shard, Unit, outcome_key
from pipeline.operations.verified import Verified
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep

AGAIN = "run again"
REPAIR = "`invertmill verify --repair`, then run again"
_READERS = 8
_READ_TOGETHER = 64
"""Units whose receipts are in memory at a time, while the files of others are read."""


@dataclass(frozen=True)
class Problem:
    """Something missing or damaged, and its remedy."""

    stage: str
    what: str
    remedy: str = AGAIN
    damage: Damage | None = None  # of a committed bundle, for `repair`

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}; {self.remedy}"


Check = Callable[[Ledger, Receipt], list[Problem]]


class Account:
    """The findings on one stage, shard by shard; only numbers are kept of the samples of earlier shards."""

    def __init__(self, step: MapStep, verified: Verified, check: Check | None = None) -> None:
        """Begin without findings.

        Args:
            step: the stage.
            verified: bundles whose files were read before, and where those that are whole are noted.
            check: returns the problems of a bundle's files; by default their damage.
        """
        self.step, self.problems, self._verified, self._check = step, list[Problem](), verified, check or whole
        self.expected, self.recorded, self.quarantined = 0, 0, 0

    @property
    def fact(self) -> str:
        """The tally of the stage."""
        sums = f"{self.expected} samples = {self.recorded} recorded + {self.quarantined} quarantined"
        return f"{self.step.stage.name}: {sums}"

    def check_shard(self, plan: Plan, shard: Shard, head: ReceiptHead, samples: Sequence[ShardSample]) -> None:
        """Compare the bundles of a shard's units with the samples of its inventory, and their files with receipts."""
        selection, seen = self.step.selection, Counter[str]()
        units = plan.units({shard: head}, selection)
        keys = [outcome_key(sample) for sample in samples if selection.includes(shard.name, sample.key)]
        for first in range(0, len(units), _READ_TOGETHER):
            some = units[first : first + _READ_TOGETHER]
            damaged = list[Damage]()
            receipts = list(plan.ledger.receipts_at(map(self._address, some), damaged))
            unreadable = {damage.unit for damage in damaged}
            self.problems += map(damaged_problem, damaged)
            for unit, receipt in zip(some, receipts, strict=True):
                expected = keys[unit.first : unit.stop]
                self.expected += len(expected)
                if receipt is None and unit.name not in unreadable:
                    self.problems.append(Problem(self.step.stage.name, f"unit {unit.name} has no bundle"))
                if receipt is not None:
                    self._add(receipt, expected, seen)
            self._check_files(plan.ledger, [receipt for receipt in receipts if receipt is not None])
        for key, count in seen.items():
            if count > 1:
                what = f"{key} of {shard.slug} is recorded {count} times"
                self.problems.append(Problem(self.step.stage.name, what, REPAIR))

    def _check_files(self, ledger: Ledger, receipts: Sequence[Receipt]) -> None:
        """Read the files of some bundles, several at a time, without those that were whole before."""
        unread = [receipt for receipt in receipts if receipt not in self._verified]
        with ThreadPoolExecutor(_READERS, "files") as readers:
            found = list(readers.map(lambda receipt: self._check(ledger, receipt), unread))
        self.problems += itertools.chain.from_iterable(found)
        self._verified.add(receipt for receipt, problems in zip(unread, found, strict=True) if not problems)

    def _add(self, receipt: Receipt, expected: Sequence[str], seen: Counter[str]) -> None:
        seen.update(receipt.outcomes.keys())
        head = receipt.head
        self.recorded, self.quarantined = self.recorded + head.recorded, self.quarantined + head.quarantined
        self.problems += _unaccounted(receipt, expected)

    def _address(self, unit: Unit) -> Address:
        return Address(self.step.stage.name, self.step.fingerprint, unit.name)


def whole(ledger: Ledger, receipt: AnyReceipt) -> list[Problem]:
    """Return the damage of a bundle's files."""
    return [damaged_problem(damage) for damage in ledger.damages(receipt)]


def damaged_problem(damage: Damage) -> Problem:
    """Return the problem of a damaged bundle."""
    return Problem(damage.stage, damage.what, REPAIR, damage)


def _unaccounted(receipt: Receipt, expected: Iterable[str]) -> list[Problem]:
    wanted, got = set(expected), set(receipt.outcomes)
    wrong = [f"{key} of unit {receipt.unit} has no outcome" for key in sorted(wanted - got)]
    wrong += [f"{key} of unit {receipt.unit} is not in the inventory" for key in sorted(got - wanted)]
    damage = damage_of(receipt, "its outcomes are not those of its samples")
    return [Problem(receipt.stage, what, REPAIR, damage) for what in wrong]
