"""The parts of an index: bundles of their own, addressed by what they are made of, so that every version shares them.

`contents.json` of an index lists its parts with the sums over the receipts of their units. Reports and `status` read
these sums instead of the receipts, as long as the units are the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from infra.damage import Damages, set_aside
from infra.errors import BundleError, DamagedBundleError
from infra.receipts import BUNDLES, Address, AnyReceipt, Attempt, FileEntry, Ledger, Receipt
from pipeline.data.receipt_info import PartInfo
from pipeline.data.tally import Tally
from pipeline.publish.pointer import address_in, read_pointer

CONTENTS = "contents.json"
"""The file of an index that lists its parts."""
STAGE = "publish"
UNIT = "part"
"""The unit of a part's bundle; its fingerprint is the digest of what the part is made of."""
_DIGITS = 32


@validated(frozen=True)
class Part:
    """One part of an index, committed as a bundle."""

    made_of: str
    file: FileEntry
    rows: int
    recorded: int
    tallies: Mapping[str, Tally]
    """By the digest of a stage's bundles, as `Held.digest_of` returns it."""

    @property
    def address(self) -> Address:
        """The address of its bundle."""
        return Address(STAGE, self.made_of, UNIT)

    @classmethod
    def from_receipt(cls, receipt: Receipt) -> Part:
        """Return the part of a bundle; raise `DamagedBundleError` if the bundle is not a part's."""
        info = PartInfo.from_receipt(receipt)
        (entry,) = receipt.files
        return cls(receipt.fingerprint, entry, info.rows, info.recorded, info.tallies)


_PARTS = TypeAdapter(tuple[Part, ...])


@dataclass(frozen=True)
class Made:
    """The content of a part that is not committed yet."""

    data: bytes
    rows: int
    recorded: int
    tallies: Mapping[str, Tally]


class Parts:
    """The committed parts of a store that a new index can include."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._published = {part.made_of: part for part in published_parts(ledger)}
        self._sizes = {entry.name: entry.size for entry in ledger.store.list(f"{BUNDLES}/{STAGE}/")}

    def get(self, made_of: str) -> Part | None:
        """Return a part by the digest of what it is made of, None if there is none.

        A part whose file is missing or has another size is set aside. Its content is not read: readers and `verify`
        compare the checksum.
        """
        part = self._published.get(made_of)
        if part is not None and self._present(part.file):
            return part
        try:
            return self._committed(made_of)
        except DamagedBundleError as error:
            for damage in error.damages:
                set_aside(self._ledger.store, damage)
            return None

    def include(self, attempt: Attempt, made_of: str, make: Callable[[], Made], damages: Damages) -> Part | None:
        """Include a part in an index, and make it if there is none; None if bundles that it is made of are damaged.

        Args:
            attempt: of the index.
            made_of: the digest of what the part is made of.
            make: makes its content.
            damages: where `make` notes damaged bundles; a part without their rows is not committed.
        """
        part = self.get(made_of)
        if part is None:
            started, damaged = time.time(), len(damages.found)
            made = make()
            if len(damages.found) > damaged:
                return None
            part = self._put(made_of, made, started)
        attempt.include(part.file)
        return part

    def _put(self, made_of: str, made: Made, started: float) -> Part:
        attempt = self._ledger.begin(Address(STAGE, made_of, UNIT))
        attempt.put(f"part-{made_of}.parquet", made.data)
        info = PartInfo(
            rows=made.rows, recorded=made.recorded, tallies=made.tallies, started=started, finished=time.time()
        )
        return Part.from_receipt(attempt.commit({}, info.plain()))

    def _committed(self, made_of: str) -> Part | None:
        receipt = self._ledger.receipt(Address(STAGE, made_of, UNIT))
        if receipt is None:
            return None
        if damages := self._ledger.listed_damages(receipt):
            raise DamagedBundleError(damages)
        return Part.from_receipt(receipt)

    def _present(self, entry: FileEntry) -> bool:
        return self._sizes.get(entry.name) == entry.size


def published_parts(ledger: Ledger) -> tuple[Part, ...]:
    """Return the parts of the published index; none if nothing is, or if an earlier version published it."""
    try:
        pointer = read_pointer(ledger)
        receipt = None if pointer is None else ledger.receipt(address_in(ledger, pointer.receipt))
        if receipt is None or not any(entry.filename == CONTENTS for entry in receipt.files):
            return ()
        return _PARTS.validate_json(ledger.read_file(receipt, CONTENTS))
    except (BundleError, ValidationError):  # what is damaged is made again, and `verify` reports it
        return ()


def included_parts(index: AnyReceipt) -> Iterator[Address]:
    """Yield the addresses of the parts whose files an index includes; none of one of an earlier version."""
    for file in index.files:
        _, stage, made_of, unit, *_ = file.name.split("/")
        if unit == UNIT:
            yield Address(stage, made_of, unit)


def written(parts: Sequence[Part]) -> bytes:
    """Return the list of an index's parts."""
    return _PARTS.dump_json(tuple(parts), indent=1)


def digest_of(*inputs: object) -> str:
    """Return the digest of what a part is made of."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:_DIGITS]
