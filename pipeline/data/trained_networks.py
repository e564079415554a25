"""Trained networks: checkpoints that trainings commit, and that each machine copies before it uses them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from infra.errors import StoreError
from infra.fetching.cache import file_path, kept_file
from infra.files import put
from infra.receipts import Ledger, Receipt
from infra.stores.os_errors import explained

SEGMENTER_FILE, ENCODER_FILE, CURVE_FILE, PICTURES_FILE = (
    "segmenter.safetensors",
    "encoder.safetensors",
    "curve.json",
    "pictures.png",
)
"""The files of a training's bundle."""


SEGMENTER_UNIT, ENCODER_UNIT = "segmenter", "encoder"
_PARTIAL = re.compile(r"segmenter-of-(\d{4})-[0-9a-f]{8}")


def unit_trained_on(share: float, units: Sequence[str]) -> str:
    """Return the unit of a training: a training on a part of the supervision is named by its share and units."""
    if share >= 1:
        return SEGMENTER_UNIT
    digest = hashlib.sha256(json.dumps(sorted(units)).encode()).hexdigest()[:8]
    return f"{SEGMENTER_UNIT}-of-{int(share * 10_000 + 1e-6):04d}-{digest}"


def unit_in_use(committed: Iterable[str], minimum_share: float) -> str:
    """Return the unit of the segmenter that a run uses: the complete one, or the largest part that suffices."""
    units = set(committed)
    parts = {unit: int(found[1]) / 10_000 for unit in units if (found := _PARTIAL.fullmatch(unit))}
    good = {unit: share for unit, share in parts.items() if share >= minimum_share}
    if SEGMENTER_UNIT in units or not good:
        return SEGMENTER_UNIT
    return max(good, key=lambda unit: (good[unit], unit))


@dataclass(frozen=True)
class TrainedNetwork:
    """A committed checkpoint; every machine keeps it in its cache, by its digest."""

    receipt: Receipt

    kind: ClassVar[str]
    file: ClassVar[str]  # of the bundle

    @property
    def sha256(self) -> str:
        """The digest of its content."""
        return self.receipt.file(self.file).sha256

    @property
    def path(self) -> Path:
        """Where the cache of this machine keeps it.

        Raises:
            StoreError: this machine has no place for a cache.
        """
        try:
            return file_path(self.sha256)
        except OSError as error:
            raise StoreError(f"cannot keep the {self.kind}: {error.strerror}") from error

    def restore(self, ledger: Ledger) -> bool:
        """Restore the checkpoint in the store if this machine has it; return whether the bundle is whole then."""
        path = kept_file(self.sha256)
        if path is None:
            return False
        ledger.store.write(self.receipt.file(self.file).name, path)
        return not ledger.verify(self.receipt)

    def fetch(self, ledger: Ledger) -> Path:
        """Return the path of the checkpoint on this machine, downloaded into its cache if needed.

        Raises:
            StoreError: the cache cannot be written.
            DamagedBundleError: the store lacks the checkpoint, or its copy differs.
        """
        path = kept_file(self.sha256)
        if path is None:
            data, path = ledger.read_file(self.receipt, self.file), self.path
            with explained(path, "write"):
                put(path, data)
        return path


@dataclass(frozen=True)
class TrainedSegmenter(TrainedNetwork):
    """The checkpoint of `train_segmenter`."""

    kind: ClassVar[str] = "segmenter"
    file: ClassVar[str] = SEGMENTER_FILE


@dataclass(frozen=True)
class TrainedEncoder(TrainedNetwork):
    """The checkpoint of `train_encoder`."""

    kind: ClassVar[str] = "encoder"
    file: ClassVar[str] = ENCODER_FILE
