"""Damaged bundles that a run meets: their receipts are set aside, their units run again, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rich.markup import escape

from infra.damage import set_aside
from infra.errors import Damage, DamagedBundleError
from infra.receipts import Ledger, damage_of
from infra.stores.store import Store
from pipeline.errors import RunError

T = TypeVar("T")


@dataclass
class Repairs:
    """What one run repaired. A bundle is made again once; one that is damaged again stops the run."""

    store: Store
    say: Callable[[str], None]
    restore: Callable[[Damage], bool] = lambda _damage: False  # puts back what is elsewhere, where that can be
    repaired: set[str] = field(default_factory=set)  # names of receipts

    def until_whole(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, called again whenever it met damaged bundles; it must resume from storage.

        Raises:
            RunError: a bundle that was made again in this run is damaged again.
        """
        while True:
            try:
                return work()
            except DamagedBundleError as error:
                self.set_aside(error)

    def set_aside(self, error: DamagedBundleError) -> None:
        """Set the receipts of damaged bundles aside, and say which units run again.

        Raises:
            RunError: one of them was set aside before.
        """
        for damage in error.damages:
            if damage.receipt in self.repaired:
                raise RunError(
                    f"{damage}, after it was made again in this run; check the disk or the store at {self.store.url}"
                ) from error
        for damage in error.damages:
            self.repaired.add(damage.receipt)
            if self.restore(damage):
                self.say(f"[yellow]damaged:[/] {escape(str(damage))}; it was put back from this machine's copy")
                continue
            name = set_aside(self.store, damage)
            kept = f"its receipt is kept as {name}" if name else "another run has seen to it"
            self.say(f"[yellow]damaged:[/] {escape(str(damage))}; {escape(kept)}; the unit runs again")


def damaged_bundles(ledger: Ledger, stage: str, fingerprint: str) -> list[Damage]:
    """Return the damage of all bundles of a stage, reading all their files."""
    damages: list[Damage] = []
    for receipt in ledger.receipts(stage, fingerprint, damages):
        if wrong := ledger.verify(receipt):
            damages.append(damage_of(receipt, "; ".join(wrong)))
    return damages
