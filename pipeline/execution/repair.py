"""Damaged bundles found by a run: their receipts are set aside, their units run again, and the run continues."""

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
    """The repairs of one run. A bundle is made again once; if it is damaged again, the run stops."""

    store: Store
    say: Callable[[str], None]
    restore: Callable[[Damage], bool] = lambda _damage: False  # restores what has a copy elsewhere
    repaired: set[str] = field(default_factory=set)  # names of receipts

    def until_whole(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, called again whenever it met damaged bundles; it must resume from storage.

        Raises:
            RunError: a bundle that was made again in this run is damaged again.
        """
        while True:
            try:
                return work()
            except DamagedBundleError as error:
                self.set_aside(error)

    def set_aside(self, error: DamagedBundleError) -> None:
        """Set the receipts of damaged bundles aside, and report which units run again.

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
                self.say(f"[yellow]damaged:[/] {escape(str(damage))}; it was restored from this machine's copy")
                continue
            name = set_aside(self.store, damage)
            kept = f"its receipt is kept as {name}" if name else "another run has repaired it"
            self.say(f"[yellow]damaged:[/] {escape(str(damage))}; {escape(kept)}; the unit runs again")


def damaged_bundles(ledger: Ledger, stage: str, fingerprint: str) -> list[Damage]:
    """Return the damage of all bundles of a stage, reading all their files."""
    damages: list[Damage] = []
    for receipt in ledger.receipts(stage, fingerprint, damages):
        if wrong := ledger.verify(receipt):
            damages.append(damage_of(receipt, "; ".join(wrong)))
    return damages
