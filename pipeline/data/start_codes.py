"""Inversions of another store, or earlier ones of the same, from which inversions start: read unit by unit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from infra.errors import NotFoundError
from infra.receipts import Address, Ledger
from infra.stores.storage import AnyOptions, open_store
from pipeline.data.records import read_records
from pipeline.data.units import Unit
from pipeline.errors import RunError
from stages.base.stage import Record, Sample
from stages.inversion.starts.bundle import GIVEN, Bundle
from stages.inversion.starts.start import StartSource
from stages.invert import Invert

NOTHING: Mapping[str, Record] = {}
_POINTER = "published.json"


def published_inversions(ledger: Ledger) -> str:
    """Return the fingerprint of the inversions that a store publishes; raise `RunError` if it publishes none."""
    try:
        fingerprint = json.loads(ledger.store.read(_POINTER))["stages"][Invert.name]
    except NotFoundError:
        raise RunError(
            f"invert.start: {ledger.store.url} holds no published result to start from; correct the address, or "
            "finish that run"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"invert.start: {ledger.store.url}/{_POINTER} is damaged: {error!r}") from error
    return str(fingerprint)


@dataclass(frozen=True)
class StartCodes:
    """The inversions of one fingerprint in a store; their units have the names of the run's."""

    ledger: Ledger
    fingerprint: str

    @classmethod
    def from_start(cls, start: StartSource | None, options: AnyOptions) -> StartCodes | None:
        """Return the inversions that a start takes from a store; None if it takes none."""
        if not isinstance(start, Bundle) or start.store is None or start.inversions is None:
            return None
        return cls(Ledger(open_store(str(start.store), options)), start.inversions)

    def of(self, unit: Unit) -> Mapping[str, Record]:
        """Return the rows of a unit's inversions by key; none if the store lacks the unit."""
        receipt = self.ledger.receipt(self._address(unit))
        return NOTHING if receipt is None else read_records(self.ledger.read_file, receipt, arrays=())

    def check(self, units: Sequence[Unit], generator: str) -> None:
        """Return if inversions can start there, before the first image.

        Args:
            units: of the run that have no inversions yet.
            generator: digest of the run's.

        Raises:
            RunError: the store has none of the units, or was made with another generator.
        """
        there = self.ledger.units(Invert.name, self.fingerprint)
        unit = next((unit for unit in units if unit.name in there), None)
        if units and unit is None:
            raise RunError(
                f"invert.start: {self.ledger.store.url} has no inversions {self.fingerprint} of these shards, cut into "
                "units of the same size; set unit_samples as in that run, or export its codes and give them as a file"
            )
        first = next(iter(self.of(unit).values()), None) if unit is not None else None
        if first is not None and first.row["generator"] != generator:
            raise RunError(
                f"invert.start: {self.ledger.store.url} was inverted with the generator of SHA-256 "
                f"{first.row['generator']}, and this run's has {generator}; its codes mean other images"
            )

    def _address(self, unit: Unit) -> Address:
        return Address(Invert.name, self.fingerprint, unit.name)


def starting(sample: Sample | str, given: Mapping[str, Record]) -> Sample | str:
    """Return a sample with the record that its inversion starts from, if there is one."""
    if isinstance(sample, str) or sample.key not in given:
        return sample
    return replace(sample, records={**sample.records, GIVEN: given[sample.key]})
