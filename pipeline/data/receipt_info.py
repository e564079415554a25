"""The contents of receipts apart from files and outcomes, typed per kind of receipt; only this module accesses them.

The order of the fields is that of the JSON, which therefore stays the same byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from infra.errors import DamagedBundleError
from infra.receipts import AnyReceipt, damage_of


class ReceiptInfo(BaseModel):
    """The information of one kind of receipt; entries added by other versions are ignored."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def from_receipt(cls, receipt: AnyReceipt) -> Self:
        """Return the information of a receipt; raise `DamagedBundleError` if it is not of this kind."""
        try:
            return cls.model_validate(receipt.info)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["info", *(str(part) for part in first["loc"])])
            raise DamagedBundleError([damage_of(receipt, f"{where} of its receipt: {first['msg']}")]) from error

    def plain(self) -> dict[str, JsonValue]:
        """Return this in a receipt's form."""
        return self.model_dump(mode="json")


class ShardFaultInfo(BaseModel):
    """Why a part of a shard, or all of it, was not read."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str


class InventoryInfo(ReceiptInfo):
    """Information on a shard in its inventory's receipt."""

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
    """Information on a unit in a map stage's receipt. Times are in seconds; moments are since 1970."""

    shard: str
    device: str
    started: float
    computed_s: float
    finished: float
    precision: str | None = None  # in which networks inverted; None if the stage does not invert, or is earlier

    @property
    def computed_on(self) -> str:
        """The device, with the precision if the stage has a choice: `cpu, bf16`."""
        return _with_precision(self.device, self.precision)


class TrainingInfo(ReceiptInfo):
    """Information on a training."""

    device: str
    started: float
    finished: float
    target: str | None = None  # missing in earlier versions, which trained on roots


class AdoptionInfo(ReceiptInfo):
    """Information on a published segmenter that stands for a training."""

    target: str
    started: float
    finished: float


class LeadsTo(ReceiptInfo):
    """The results that an index leads to."""

    stages: Mapping[str, str] | None = None  # the fingerprint of each stage; missing in earlier versions


class IndexInfo(LeadsTo):
    """Information on the rows of the index."""

    samples: int
    recorded: int | None = None  # missing in earlier versions
    started: float
    finished: float


class PartInfo(ReceiptInfo):
    """Information on one part of an index."""

    rows: int
    recorded: int
    tallies: Mapping[str, Any]  # `Tally`, which is made of receipts; by the digest of a stage's bundles
    started: float
    finished: float


class SupervisionIndexInfo(LeadsTo):
    """Information on the rows of the supervision's index."""

    samples: int
    started: float
    finished: float


class OwnIndexInfo(LeadsTo):
    """Information on the rows of a stage's own index."""

    rows: int
    started: float
    finished: float


class TradeOffInfo(ReceiptInfo):
    """Information on a part of a measured trade-off."""

    curve: str
    parts: int
    device: str
    started: float
    finished: float


class WorkInfo(ReceiptInfo):
    """Information on the work of any kind of receipt."""

    started: float
    finished: float
    device: str | None = None
    computed_s: float | None = None
    samples: int | None = None  # if there are more than outcomes
    precision: str | None = None

    @property
    def computed_on(self) -> str | None:
        """The device, with the precision if the stage has a choice: `cpu, bf16`."""
        return None if self.device is None else _with_precision(self.device, self.precision)

    @property
    def busy_s(self) -> float:
        """The worker's seconds for this work."""
        return self.finished - self.started if self.computed_s is None else self.computed_s


def _with_precision(device: str, precision: str | None) -> str:
    return device if precision is None else f"{device}, {precision}"
