"""`published.json`: the one pointer that readers follow; only a run moves it, after everything that it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from infra.errors import BundleError
from infra.receipts import RECEIPTS, Address, Ledger
from pipeline.publish.settings import deciding

POINTER = "published.json"


class SupervisionPointer(BaseModel):
    """The location of the error maps as a dataset of their own (`docs/supervision.md`)."""

    model_config = ConfigDict(frozen=True)

    index: tuple[str, ...]
    shards: str
    receipt: str
    samples: int


class OwnPointer(BaseModel):
    """The location of an optional stage's own index, as of the edited images (`docs/editing.md`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: tuple[str, ...]  # parquet files, with rows of the stage's making
    receipt: str
    fingerprint: str  # of the stage


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
    own: Mapping[str, OwnPointer] = {}  # indexes of optional stages; in JSON, entries next to these, by their names

    @property
    def receipts(self) -> set[str]:
        """The receipts of all indexes that readers are led to."""
        return {self.receipt, self.supervision.receipt, *(own.receipt for own in self.own.values())}

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, plain: Any) -> Any:  # noqa: ANN401  # any JSON
        if not isinstance(plain, dict) or "own" in plain:
            return plain
        own = {name: value for name, value in plain.items() if name not in cls.model_fields and _is_own(value)}
        return {**plain, "own": own}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        own: dict[str, Any] = plain.pop("own")
        return plain | own


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
    """Point readers to a committed result; write nothing if they are pointed there already, with the same settings."""
    try:
        present = read_pointer(ledger)
    except BundleError:  # damaged: rewritten
        present = None
    if present is None or _compared(present) != _compared(pointer):
        ledger.store.write(POINTER, pointer.model_dump_json(indent=2).encode())


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


def _compared(pointer: Pointer) -> Pointer:
    return pointer.model_copy(update={"settings": deciding(pointer.settings)})


def _is_own(value: object) -> bool:
    """Return whether a value is the entry of an own index, of whichever version."""
    try:
        OwnPointer.model_validate(value)
    except ValidationError:
        return False
    return True


def _damaged(ledger: Ledger) -> BundleError:
    return BundleError(f"{ledger.store.url}/{POINTER} is damaged; run again to rewrite it")
