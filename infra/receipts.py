"""The commit protocol: files first, under unique names; then the receipt, in one atomic step.

    receipts/STAGE/FINGERPRINT/UNIT.json                    seen by readers: a bundle exists if its receipt does
    bundles/STAGE/FINGERPRINT/UNIT/ATTEMPT/FILENAME         the files; one folder per attempt, so none is ever replaced

A process that dies at any instruction leaves a bundle or files that no receipt lists, which `infra.leftovers` deletes.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from infra.errors import BundleError, Damage, DamagedBundleError, NotFoundError
from infra.receipt import (
    BUNDLES,
    RECEIPTS,
    Address,
    AnyReceipt,
    FileEntry,
    Receipt,
    ReceiptHead,
    checked_part,
    damage_of,
    damages_of,
)
from infra.stores.os_errors import explained
from infra.stores.store import Entry, Store

__all__ = ["BUNDLES", "RECEIPTS", "Address", "AnyReceipt", "Attempt", "FileEntry", "Ledger", "Receipt", "ReceiptHead"]
__all__ += ["attempt_of", "damage_of", "damages_of"]

_READERS = 16
_READ_TOGETHER = 16
"""Number of receipts that a thread reads before it passes them on: passing costs as much as reading a small file."""
_BLOCK = 8 << 20
_LOOKED_UP = 8
"""A bundle with more files is compared with one listing of its stage, others file by file."""

T = TypeVar("T")


class Attempt:
    """One attempt to make a bundle: its files are invisible to readers until `commit`."""

    def __init__(self, store: Store, address: Address) -> None:
        self.address = address
        self.identity = uuid.uuid4().hex[:16]
        self._store = store
        self._files: dict[str, FileEntry] = {}
        self._included: dict[str, FileEntry] = {}

    def include(self, entry: FileEntry) -> None:
        """List a file of another bundle in this one's receipt, in the order of the calls; nothing is written.

        Raises `BundleError` if this attempt already has a file of that name.
        """
        if entry.filename in self._files or entry.filename in self._included:
            raise BundleError(f"{self.address} was given two files named {entry.filename!r}; give each its own name")
        self._included[entry.filename] = entry

    def put(self, filename: str, data: bytes | Path) -> FileEntry:
        """Write one file of the bundle, and return its entry.

        Raises `BundleError` if this attempt already has a file of that name.
        """
        if checked_part("file name", filename) in self._files or filename in self._included:
            raise BundleError(f"{self.address} was given two files named {filename!r}; give each a different name")
        name = f"{self.address.bundle_prefix}{self.identity}/{filename}"
        size, sha256 = _digest_file(data) if isinstance(data, Path) else (len(data), hashlib.sha256(data).hexdigest())
        self._store.write(name, data)
        self._files[filename] = FileEntry(name=name, size=size, sha256=sha256)
        return self._files[filename]

    def commit(self, outcomes: Mapping[str, str | None], info: Mapping[str, JsonValue]) -> Receipt:
        """Make the bundle exist, and return the valid receipt: another attempt's if that came first.

        The files of the losing attempt are deleted. On a store without conditional writes, two attempts that commit
        at the same moment may both return their own; the later receipt is valid, and its files are complete too.
        """
        address = self.address
        receipt = Receipt(
            stage=address.stage,
            fingerprint=address.fingerprint,
            unit=address.unit,
            attempt=self.identity,
            files=(*self._included.values(), *self._files.values()),
            outcomes=dict(outcomes),
            info=dict(info),
        )
        if self._store.create(address.receipt_name, receipt.model_dump_json().encode()) and self._store.conditional:
            return receipt
        standing = Ledger(self._store).receipt(address)
        if standing is None and not self._store.conditional:
            return receipt  # it is being overwritten right now; leftovers are collected later
        if standing is None:
            raise BundleError(f"the receipt of {address} was deleted while it was committed; run the unit again")
        if standing.attempt != self.identity:
            self.abandon()
        return standing

    def abandon(self) -> None:
        """Delete the files of this attempt; only for one that made no receipt."""
        self._store.delete([entry.name for entry in self._files.values()])
        self._files.clear()


@dataclass(frozen=True)
class Ledger:
    """The bundles of one store, through their receipts."""

    store: Store

    def receipt(self, address: Address) -> Receipt | None:
        """Return the receipt at an address, None if there is no bundle.

        Raises `DamagedBundleError` if the object is not a receipt of that address.
        """
        return self._load(address.receipt_name)

    def required(self, address: Address) -> Receipt:
        """Return the receipt at an address; raise `DamagedBundleError` if there is none, or it is damaged."""
        receipt = self.receipt(address)
        if receipt is None:
            raise DamagedBundleError([Damage(address.receipt_name, None, "its bundle is gone")])
        return receipt

    def units(self, stage: str, fingerprint: str) -> set[str]:
        """Return the units that have a bundle, from one listing."""
        return set(self.versions(stage, fingerprint))

    def versions(self, stage: str, fingerprint: str) -> dict[str, str]:
        """Return the units that have a bundle, each with a version that changes if it is made again; one listing."""
        listed = self._receipt_entries(_stage_prefix(stage, fingerprint))
        return {_unit_of(entry.name): entry.version for entry in listed}

    def receipts(self, stage: str, fingerprint: str, damaged: list[Damage] | None = None) -> Iterator[Receipt]:
        """Yield the receipts of a stage in the order of their units, reading several at a time.

        A damaged receipt is added to `damaged`, or raises `DamagedBundleError` if that is None.
        """
        names = self._receipt_names(_stage_prefix(stage, fingerprint))
        return _present(self._load_all(names, damaged, _whole))

    def heads(self, stage: str, fingerprint: str, damaged: list[Damage] | None = None) -> Iterator[ReceiptHead]:
        """Yield the same as `receipts`, without samples."""
        names = self._receipt_names(_stage_prefix(stage, fingerprint))
        return _present(self._load_all(names, damaged, _head))

    def receipts_at(
        self, addresses: Iterable[Address], damaged: list[Damage] | None = None
    ) -> Iterator[Receipt | None]:
        """Yield the receipt at each address, None if there is none or it is damaged; several are read at a time.

        A damaged receipt is added to `damaged`, or raises `DamagedBundleError` if that is None.
        """
        return self._load_all((address.receipt_name for address in addresses), damaged, _whole)

    def heads_at(
        self, addresses: Iterable[Address], damaged: list[Damage] | None = None
    ) -> Iterator[ReceiptHead | None]:
        """Yield the same as `receipts_at`, without samples."""
        return self._load_all((address.receipt_name for address in addresses), damaged, _head)

    def fingerprints(self, stage: str) -> dict[str, list[str]]:
        """Return the units that have a bundle of a stage, by fingerprint; one listing."""
        found: dict[str, list[str]] = {}
        for name in self._receipt_names(f"{RECEIPTS}/{checked_part('stage', stage)}/"):
            _, _, fingerprint, file = name.split("/")
            found.setdefault(fingerprint, []).append(file.removesuffix(".json"))
        return found

    def begin(self, address: Address) -> Attempt:
        """Return a new attempt to make the bundle at an address."""
        return Attempt(self.store, address)

    def read_file(self, receipt: AnyReceipt, filename: str) -> bytes:
        """Return one file of a bundle; raise `DamagedBundleError` if it is missing or differs from its receipt."""
        return self.read_entry(receipt, receipt.file(filename))

    def read_entry(self, receipt: AnyReceipt, entry: FileEntry) -> bytes:
        """Return one file of a bundle, given as its receipt lists it; raise `DamagedBundleError` like `read_file`."""
        try:
            data = self.store.read(entry.name)
        except NotFoundError as error:
            raise DamagedBundleError(damages_of(receipt, entry, _missing(entry))) from error
        if problem := _compare(entry, len(data), hashlib.sha256(data).hexdigest()):
            raise DamagedBundleError(damages_of(receipt, entry, problem))
        return data

    def damages(self, receipt: AnyReceipt, without: Container[str] = ()) -> list[Damage]:
        """Return the damage of a bundle's files, reading all of them; also to the bundles whose files it includes.

        Files whose names are in `without` are not read.
        """
        found = ((entry, self._problem(entry)) for entry in receipt.files if entry.filename not in without)
        return _by_bundle(damage for entry, what in found if what for damage in damages_of(receipt, entry, what))

    def listed_damages(self, receipt: AnyReceipt) -> list[Damage]:
        """Return the damage that is visible without reading files: missing ones, and those of another size."""
        names = [entry.name for entry in receipt.files]
        if len(names) <= _LOOKED_UP:
            entries = [entry for name in names if (entry := self.store.entry(name)) is not None]
        else:
            entries = list(self.store.list(f"{BUNDLES}/{receipt.address.stage}/"))
        sizes = {entry.name: entry.size for entry in entries}
        wrong = ((entry, _compare_size(entry, sizes.get(entry.name))) for entry in receipt.files)
        return _by_bundle(damage for entry, what in wrong if what for damage in damages_of(receipt, entry, what))

    def verify(self, receipt: AnyReceipt) -> list[str]:
        """Return the damage of a bundle's files, reading all of them; empty if the bundle is whole."""
        return [problem for entry in receipt.files if (problem := self._problem(entry))]

    def _receipt_entries(self, prefix: str) -> Iterator[Entry]:
        return (entry for entry in self.store.list(prefix) if entry.name.endswith(".json"))

    def _receipt_names(self, prefix: str) -> Iterator[str]:
        return (entry.name for entry in self._receipt_entries(prefix))

    def _load_all(
        self, names: Iterable[str], damaged: list[Damage] | None, kept: Callable[[Receipt], T]
    ) -> Iterator[T | None]:
        """Yield the needed part of each receipt, in the order of the names; a bounded number is read ahead."""

        def load(name: str) -> T | None:
            try:
                receipt = self._load(name)
            except DamagedBundleError as error:
                if damaged is None:
                    raise
                damaged.extend(error.damages)
                return None
            return None if receipt is None else kept(receipt)

        def load_some(some: tuple[str, ...]) -> list[T | None]:
            return [load(name) for name in some]

        remaining = iter(names)
        together = iter(lambda: tuple(itertools.islice(remaining, _READ_TOGETHER)), ())
        with ThreadPoolExecutor(_READERS, "receipts") as readers:
            ahead = collections.deque(readers.submit(load_some, some) for some in itertools.islice(together, _READERS))
            while ahead:
                loaded = ahead.popleft().result()
                ahead.extend(readers.submit(load_some, some) for some in itertools.islice(together, 1))
                yield from loaded

    def _load(self, name: str) -> Receipt | None:
        try:
            data = self.store.read(name)
        except NotFoundError:
            return None
        try:
            receipt = Receipt.model_validate_json(data)
        except ValidationError as error:
            what = f"{name} is not a whole receipt ({error.errors()[0]['msg']}, {len(data)} bytes)"
            raise DamagedBundleError([Damage(name, attempt_of(data), what)]) from error
        if receipt.address.receipt_name != name:
            what = f"{name} is the receipt of {receipt.address.receipt_name}"
            raise DamagedBundleError([Damage(name, receipt.attempt, what)])
        return receipt

    def _problem(self, entry: FileEntry) -> str | None:
        digest, size = hashlib.sha256(), 0
        try:
            with self.store.open(entry.name) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
        except NotFoundError:
            return _missing(entry)
        return _compare(entry, size, digest.hexdigest())


def attempt_of(data: bytes) -> str | None:
    """Return the attempt that a receipt names, None if its beginning is unreadable."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(data)["attempt"])
    return None


def _by_bundle(damages: Iterable[Damage]) -> list[Damage]:
    """Return one damage per bundle, with all that was found."""
    whats: dict[tuple[str, str | None], list[str]] = {}
    for damage in damages:
        whats.setdefault((damage.receipt, damage.attempt), []).append(damage.what)
    return [Damage(receipt, attempt, "; ".join(what)) for (receipt, attempt), what in whats.items()]


def _whole(receipt: Receipt) -> Receipt:
    return receipt


def _head(receipt: Receipt) -> ReceiptHead:
    return receipt.head


def _present(loaded: Iterator[T | None]) -> Iterator[T]:
    return (item for item in loaded if item is not None)


def _unit_of(receipt_name: str) -> str:
    return receipt_name.rpartition("/")[2].removesuffix(".json")


def _stage_prefix(stage: str, fingerprint: str) -> str:
    return f"{RECEIPTS}/{checked_part('stage', stage)}/{checked_part('fingerprint', fingerprint)}/"


def _digest_file(path: Path) -> tuple[int, str]:
    with explained(path, "read"), path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def _missing(entry: FileEntry) -> str:
    return f"{entry.name} is missing"


def _compare_size(entry: FileEntry, size: int | None) -> str | None:
    if size is None:
        return _missing(entry)
    return None if size == entry.size else f"{entry.name} has {size} bytes, its receipt says {entry.size}"


def _compare(entry: FileEntry, size: int, sha256: str) -> str | None:
    if problem := _compare_size(entry, size):
        return problem
    if sha256 != entry.sha256:
        return f"{entry.name} has SHA-256 {sha256}, its receipt says {entry.sha256}"
    return None
