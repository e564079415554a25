"""The content of a receipt: the address of a bundle, its files with size and checksum, and every sample's outcome."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

from infra.errors import BundleError, Damage, DamagedBundleError

RECEIPTS = "receipts"
BUNDLES = "bundles"

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class FileEntry(BaseModel):
    """One file of a bundle; `name` is relative to the store's root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """The stage's name for it."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Address:
    """The address of a bundle. Each part holds letters, digits, `.`, `_` and `-` only, and does not begin with `.`."""

    stage: str
    fingerprint: str
    unit: str

    def __post_init__(self) -> None:
        for what, part in (("stage", self.stage), ("fingerprint", self.fingerprint), ("unit", self.unit)):
            checked_part(what, part)

    def __str__(self) -> str:
        return f"{self.stage} unit {self.unit}"

    @property
    def receipt_name(self) -> str:
        """The name of the receipt in the store."""
        return f"{RECEIPTS}/{self.stage}/{self.fingerprint}/{self.unit}.json"

    @property
    def bundle_prefix(self) -> str:
        """Prefix of the names of all files of all attempts."""
        return f"{BUNDLES}/{self.stage}/{self.fingerprint}/{self.unit}/"


class Receipt(BaseModel):
    """The record that a bundle is complete.

    `outcomes` holds every sample of the unit: None if it is recorded in the bundle, else why it was quarantined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    fingerprint: str
    unit: str
    attempt: str
    files: tuple[FileEntry, ...]
    outcomes: Mapping[str, str | None]
    info: Mapping[str, JsonValue]

    @property
    def address(self) -> Address:
        """The address of the bundle."""
        return Address(self.stage, self.fingerprint, self.unit)

    @property
    def recorded(self) -> tuple[str, ...]:
        """Keys of the samples with results in the bundle."""
        return tuple(key for key, reason in self.outcomes.items() if reason is None)

    @property
    def quarantined(self) -> dict[str, str]:
        """Keys of the samples that could not be processed, with the reason."""
        return {key: reason for key, reason in self.outcomes.items() if reason is not None}

    @property
    def head(self) -> ReceiptHead:
        """The receipt without its samples."""
        recorded = sum(reason is None for reason in self.outcomes.values())
        quarantined = len(self.outcomes) - recorded
        return ReceiptHead(self.address, self.attempt, self.files, self.info, recorded, quarantined)

    def file(self, filename: str) -> FileEntry:
        """Return the entry of one file. Raises `DamagedBundleError` if the bundle has no such file."""
        return _file_of(self, filename)


@dataclass(frozen=True, slots=True)
class ReceiptHead:
    """A receipt without its samples, of which only the counts are kept: small, however many samples there are."""

    address: Address
    attempt: str
    files: tuple[FileEntry, ...]
    info: Mapping[str, JsonValue]
    recorded: int
    quarantined: int

    @property
    def unit(self) -> str:
        """The unit of the bundle."""
        return self.address.unit

    @property
    def samples(self) -> int:
        """The number of samples with an outcome."""
        return self.recorded + self.quarantined

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(entry.size for entry in self.files)

    def file(self, filename: str) -> FileEntry:
        """Return the entry of one file. Raises `DamagedBundleError` if the bundle has no such file."""
        return _file_of(self, filename)


AnyReceipt: TypeAlias = Receipt | ReceiptHead
"""Everything needed to find a bundle's files and read them."""


def damage_of(receipt: AnyReceipt, what: str) -> Damage:
    """Return the damage of a bundle whose receipt can be read."""
    return Damage(receipt.address.receipt_name, receipt.attempt, what)


def damages_of(receipt: AnyReceipt, entry: FileEntry, what: str) -> list[Damage]:
    """Return the damage of a file that a receipt lists: first that of the bundle whose file it is, if it is another."""
    if entry.name.startswith(receipt.address.bundle_prefix):
        return [damage_of(receipt, what)]
    try:
        _, stage, fingerprint, unit, attempt, filename = entry.name.split("/")
        owner = Damage(Address(stage, fingerprint, unit).receipt_name, attempt, what)
    except ValueError:
        return [damage_of(receipt, what)]
    return [owner, damage_of(receipt, f"its {filename} is damaged")]


def checked_part(what: str, part: str) -> str:
    """Return a part of a name in a store; raise `BundleError` if it could be taken for another name."""
    if not _PART.fullmatch(part):
        raise BundleError(f"a {what} holds letters, digits, '.', '_' and '-' and does not begin with '.', got {part!r}")
    return part


def _file_of(receipt: AnyReceipt, filename: str) -> FileEntry:
    for entry in receipt.files:
        if entry.filename == filename:
            return entry
    held = ", ".join(entry.filename for entry in receipt.files) or "no files"
    raise DamagedBundleError([damage_of(receipt, f"it has no file {filename!r}, it has {held}")])
