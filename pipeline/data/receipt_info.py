"""What receipts say besides files and outcomes, typed for each kind of receipt: written and read through here only.

The order of the fields is that of the JSON, which therefore stays the same byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from infra.errors import DamagedBundleError
from infra.receipts import AnyReceipt, damage_of


class ReceiptInfo(BaseModel):
    """The information of one kind of receipt; entries that other versions added are passed over."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, receipt: AnyReceipt) -> Self:
        """Return what a receipt says; raises `DamagedBundleError` if it is not of this kind."""
        try:
            return cls.model_validate(receipt.info)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["info", *(str(part) for part in first["loc"])])
            raise DamagedBundleError([damage_of(receipt, f"{where} of its receipt: {first['msg']}")]) from error

    def plain(self) -> dict[str, JsonValue]:
        """Return this as a receipt holds it."""
        return self.model_dump(mode="json")


class ShardFaultInfo(BaseModel):
    """Why a part of a shard, or all of it, was not read."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str


class InventoryInfo(ReceiptInfo):
    """What the inventory says of a shard."""

    address: int  # which of the input's stores
    shard: str
    sha256: str
    bytes: int
    version: str  # as the store listed it when it was scanned
    samples: int
    faults: tuple[ShardFaultInfo, ...]
    notes: tuple[str, ...]
    passed_over: Mapping[str, int]
    started: float
    finished: float


class UnitInfo(ReceiptInfo):
    """What a map stage says of a unit. Times are in seconds, since 1970 where they are moments."""

    shard: str
    device: str
    started: float
    computed_s: float
    finished: float


class TrainingInfo(ReceiptInfo):
    """What a training says of itself."""

    device: str
    started: float
    finished: float
    target: str | None = None  # earlier versions did not say, and trained on roots


class IndexInfo(ReceiptInfo):
    """What the index says of its rows."""

    samples: int
    recorded: int | None = None  # earlier versions did not say
    started: float
    finished: float


class SupervisionIndexInfo(ReceiptInfo):
    """What the index of the supervision says of its rows."""

    samples: int
    started: float
    finished: float


class TradeOffInfo(ReceiptInfo):
    """What a part of a measured trade-off says of itself."""

    curve: str
    parts: int
    device: str
    started: float
    finished: float


class WorkInfo(ReceiptInfo):
    """What every kind of receipt says of the work it stands for."""

    started: float
    finished: float
    device: str | None = None
    computed_s: float | None = None
    samples: int | None = None  # where they are more than the outcomes

    @property
    def busy_s(self) -> float:
        """The seconds that the work took its worker."""
        return self.finished - self.started if self.computed_s is None else self.computed_s
