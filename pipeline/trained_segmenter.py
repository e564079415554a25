"""The segmenter's checkpoint: committed by a training, and brought to each machine that works with it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from generators.cache import digest_of
from infra.os_errors import explained
from infra.receipts import Ledger, Receipt

SEGMENTER_FILE, CURVE_FILE, PICTURES_FILE = "segmenter.safetensors", "curve.json", "pictures.png"
"""The files of a training's bundle."""


@dataclass(frozen=True)
class TrainedSegmenter:
    """A committed checkpoint, and where a machine keeps it; named by its content, so that none is taken for another."""

    receipt: Receipt
    path: Path

    @classmethod
    def of(cls, receipt: Receipt, folder: Path) -> TrainedSegmenter:
        """Return the segmenter of a training, to be kept in a run's folder."""
        digest = receipt.file(SEGMENTER_FILE).sha256
        return cls(receipt, folder / "checkpoints" / f"segmenter-{digest[:16]}.safetensors")

    @property
    def sha256(self) -> str:
        """The digest of its content."""
        return self.receipt.file(SEGMENTER_FILE).sha256

    def restore(self, ledger: Ledger) -> bool:
        """Put the checkpoint back into the store if this machine has it; return whether the bundle is whole then."""
        if not (self.path.is_file() and digest_of(self.path) == self.sha256):
            return False
        ledger.store.write(self.receipt.file(SEGMENTER_FILE).name, self.path)
        return not ledger.verify(self.receipt)

    def fetch(self, ledger: Ledger) -> None:
        """Download the checkpoint unless this machine has it, whole.

        Raises:
            StoreError: the run's folder cannot be written.
            DamagedBundleError: the store lacks it too, or has another one.
        """
        if self.path.is_file() and digest_of(self.path) == self.sha256:
            return
        data = ledger.read_file(self.receipt, SEGMENTER_FILE)
        with explained(self.path, "write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(
                f"{self.path.name}.{uuid.uuid4().hex}.part"
            )  # several actors may come at once
            try:
                partial.write_bytes(data)
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)
