"""Sums over the bundles of a stage: from the published index where units are unchanged, otherwise from receipts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infra.receipts import Address, Ledger
from pipeline.data.tally import Tally
from pipeline.data.units import Unit
from pipeline.plan.steps import MapStep
from pipeline.publish.contents import published_parts
from pipeline.publish.grouping import grouped
from pipeline.publish.held import Held


class Tallies:
    """Adds up the work of stages. A listing shows which units have changed since the index was published."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known = {digest: tally for part in published_parts(ledger) for digest, tally in part.tallies.items()}

    def of(self, step: MapStep, units: Sequence[Unit]) -> Tally:
        """Return the sums over the bundles of some units.

        Raises:
            DamagedBundleError: a receipt is damaged.
        """
        held, unknown = Held(self._ledger, [(step, units)]), list[int]()
        known = [tally for tally in self._of_groups(held, step, units, unknown) if tally is not None]
        addresses = (Address(step.stage.name, step.fingerprint, units[number].name) for number in unknown)
        heads = (head for head in self._ledger.heads_at(addresses) if head is not None)
        return Tally.summed([*known, Tally.from_heads(heads)])

    def _of_groups(
        self, held: Held, step: MapStep, units: Sequence[Unit], unknown: list[int]
    ) -> Iterator[Tally | None]:
        """Yield the sums of unchanged groups of units, and add the committed units of others to `unknown`."""
        for numbers in grouped(units):
            digest = held.digest_of(step.stage.name, [(number, units[number]) for number in numbers])
            if digest not in self._known:
                unknown += [number for number in numbers if held.has(step.stage.name, number)]
            yield self._known.get(digest)
