"""The inputs of an index's parts, known from listings, so that an unchanged part is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from infra.errors import BundleError
from infra.receipts import Ledger, Receipt
from pipeline.data.units import Unit
from pipeline.publish.pointer import address_in, read_pointer

CONTENTS = "contents.json"
"""The file of an index that lists the inputs of each of its parts."""


@dataclass(frozen=True)
class Slice:
    """The samples of a unit, numbers `first` up to `stop` of the unit, whose rows are in one part."""

    number: int  # of the unit, among those of the index
    unit: Unit
    first: int
    stop: int


@validated(frozen=True)
class Part:
    """One part of an index that is committed."""

    name: str
    made_of: str
    recorded: int
    rows: int


_PARTS = TypeAdapter(tuple[Part, ...])


@dataclass(frozen=True)
class EarlierParts:
    """The parts of the published index, by their inputs."""

    receipt: Receipt | None
    parts: Mapping[str, Part]

    @classmethod
    def from_pointer(cls, ledger: Ledger) -> EarlierParts:
        """Return the parts of what is published; none if nothing is, or if an earlier version published it."""
        try:
            pointer = read_pointer(ledger)
            receipt = None if pointer is None else ledger.receipt(address_in(ledger, pointer.receipt))
            if receipt is None or not any(entry.filename == CONTENTS for entry in receipt.files):
                return cls(None, {})
            parts = _PARTS.validate_json(ledger.read_file(receipt, CONTENTS))
        except (BundleError, ValidationError):  # a damaged part is made again, and `verify` reports it
            return cls(None, {})
        return cls(receipt, {part.made_of: part for part in parts})

    def bytes_of(self, ledger: Ledger, made_of: str) -> tuple[bytes, int] | None:
        """Return a part and how many recorded samples it has; None if there is no such part, or it is damaged."""
        part = self.parts.get(made_of)
        if part is None or self.receipt is None:
            return None
        try:
            return ledger.read_file(self.receipt, part.name), part.recorded
        except BundleError:
            return None


def written(parts: Sequence[Part]) -> bytes:
    """Return the list of the inputs of an index's parts."""
    return _PARTS.dump_json(tuple(parts), indent=1)


def sliced(units: Iterator[tuple[int, Unit]], rows_per_part: int) -> Iterator[list[Slice]]:
    """Yield the rows of numbered units in parts of equal size; one empty part if there are none."""
    part, free, count = list[Slice](), rows_per_part, 0
    for number, unit in units:
        first, size = 0, unit.stop - unit.first
        while first < size:
            stop = min(size, first + free)
            part.append(Slice(number, unit, first, stop))
            free, first = free - (stop - first), stop
            if not free:
                yield part
                part, free, count = [], rows_per_part, count + 1
    if part or not count:
        yield part


def digest_of_parts(origin: object, slices: Iterator[object]) -> str:
    """Return a digest of a part's content."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
    for described in slices:
        digest.update(json.dumps(described).encode())
    return digest.hexdigest()
