"""`published.json`: the one pointer that readers follow; only a run moves it, after everything that it leads to."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import BundleError
from infra.receipts import RECEIPTS, Address, Ledger

POINTER = "published.json"


class SupervisionPointer(BaseModel):
    """The location of the error maps as a dataset of their own (`docs/supervision.md`)."""

    model_config = ConfigDict(frozen=True)

    index: tuple[str, ...]
    shards: str
    receipt: str
    samples: int


class EditsPointer(BaseModel):
    """The location of the edited images' index (`docs/editing.md`)."""

    model_config = ConfigDict(frozen=True)

    index: tuple[str, ...]  # parquet files, one row per edit of a sample
    receipt: str
    fingerprint: str  # of the edits


class Pointer(BaseModel):
    """What is published; names are relative to the store. Other versions may add fields."""

    model_config = ConfigDict(frozen=True)

    index: tuple[str, ...]  # parquet files, one row per sample
    receipt: str  # of the index
    stages: dict[str, str]  # the fingerprint of each
    samples: int  # rows of the index
    gaps: dict[str, Any] = {}  # what the index lacks (`Index.gaps`); empty if it is complete
    settings: dict[str, Any] = {}  # of the run, those that decide results
    supervision: SupervisionPointer
    edits: EditsPointer | None = None  # only if edits are configured


def read_pointer(ledger: Ledger) -> Pointer | None:
    """Return what is published, None if nothing is.

    Raises:
        BundleError: the pointer is damaged.
    """
    if not ledger.store.exists(POINTER):
        return None
    try:
        return Pointer.model_validate_json(ledger.store.read(POINTER))
    except ValidationError as error:
        raise _damaged(ledger) from error


def move_pointer(ledger: Ledger, pointer: Pointer) -> None:
    """Point readers to a committed result; write nothing if they are pointed there already."""
    unset = {"edits"} if pointer.edits is None else None  # without edits, the bytes that earlier versions wrote
    data, store = pointer.model_dump_json(indent=2, exclude=unset).encode(), ledger.store
    if not (store.exists(POINTER) and store.read(POINTER) == data):
        store.write(POINTER, data)


def address_in(ledger: Ledger, receipt: str) -> Address:
    """Return the address of a receipt that the pointer names; raise `BundleError` if the name is not a receipt's."""
    try:
        folder, stage, digest, file = receipt.split("/")
        address = Address(stage, digest, file.removesuffix(".json"))
    except (ValueError, BundleError) as error:
        raise _damaged(ledger) from error
    if folder != RECEIPTS or address.receipt_name != receipt:
        raise _damaged(ledger)
    return address


def _damaged(ledger: Ledger) -> BundleError:
    return BundleError(f"{ledger.store.url}/{POINTER} is damaged; run again to rewrite it")
