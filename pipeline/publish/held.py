"""The bundles that exist, and their versions: from one listing per stage, with eight bytes kept of each."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence

from infra.receipts import Ledger
from pipeline.data import inventory
from pipeline.data.units import Unit
from pipeline.plan.steps import MapStep

_MISSING = 0


class Held:
    """The state of the bundles of some stages over their units; `digest` covers all of them."""

    def __init__(
        self, ledger: Ledger, over: Iterable[tuple[MapStep, Sequence[Unit]]], inventories: Sequence[str] = ()
    ) -> None:
        """List the stages.

        Args:
            ledger: of the store.
            over: stages with their units.
            inventories: units of the inventory, which the digest covers too.
        """
        self._states: dict[str, array[int]] = {}
        self._origins: dict[str, str] = {}
        self.fingerprints: list[str] = []
        digest = hashlib.sha256(b"{")
        comma = ""
        if inventories:
            digest.update(f'"{inventory.STAGE}": {json.dumps(list(inventories))}'.encode())
            comma = ", "
        for step, units in over:
            versions = ledger.versions(step.stage.name, step.fingerprint)
            digest.update(f'{comma}"{step.stage.name}": ['.encode())
            comma, states = ", ", array("Q")
            for number, unit in enumerate(units):
                version = versions.get(unit.name)
                digest.update(f"{', ' if number else ''}{json.dumps([unit.name, version])}".encode())
                states.append(_MISSING if version is None else _state(version))
            digest.update(b"]")
            self._states[step.stage.name], self._origins[step.stage.name] = states, step.fingerprint
            self.fingerprints.append(step.fingerprint)
        digest.update(b"}")
        self.digest = digest.hexdigest()

    def has(self, stage: str, number: int) -> bool:
        """Return whether a unit of a stage has a bundle."""
        return self._states[stage][number] != _MISSING

    def state(self, stage: str, number: int) -> int:
        """Return a number that changes if the bundle of a unit is made again; 0 if there is none."""
        return self._states[stage][number]

    def digest_of(self, stage: str, units: Sequence[tuple[int, Unit]]) -> str:
        """Return a digest of the bundles of some units, given with their numbers; it changes with any of them."""
        states = self._states[stage]
        digest = hashlib.blake2b(f"{stage} {self._origins[stage]}\n".encode(), digest_size=16)
        for number, unit in units:
            digest.update(f"{unit.name} {states[number]}\n".encode())
        return digest.hexdigest()

    def missing(self, stage: str) -> list[int]:
        """Return the numbers of the units that have no bundle."""
        return [number for number, state in enumerate(self._states[stage]) if state == _MISSING]


def _state(version: str) -> int:
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest()) or 1
