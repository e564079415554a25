"""The encoder's training in the report: its learning curve, and excluded examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from infra.receipts import Ledger, Receipt
from pipeline.data.trained_networks import CURVE_FILE
from pipeline.report.charts import INK, MUTED, finished
from stages.train_encoder import Point

Line = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class EncoderTrainingReport:
    """A committed training of a SAM encoder, in the page's form."""

    learnt: int  # examples, those held out for validation included
    curve: Sequence[Point]
    rejected: Mapping[str, str]  # excluded examples, by key, with the reason

    @classmethod
    def from_receipt(cls, ledger: Ledger, receipt: Receipt) -> EncoderTrainingReport:
        """Return the report of a committed training."""
        curve: list[Point] = json.loads(ledger.read_file(receipt, CURVE_FILE))
        return cls(len(receipt.recorded), curve, receipt.quarantined)

    @property
    def last(self) -> Point:
        """The point after the last step, whose weights are used."""
        return self.curve[-1]

    def draw_losses(self) -> str:
        """Return the losses by step as an `<svg>` that takes the page's colours."""
        lines = {
            "training": (MUTED, [(point["step"], point["loss"]) for point in self.curve]),
            "validation": (INK, self._validated("val_loss")),
        }
        return _drawn(lines, "loss (Eq. 3.8)")

    def draw_psnr(self) -> str | None:
        """Return the PSNR of held-out images by step as an `<svg>`; None if nothing was held out."""
        line = self._validated("val_psnr_db")
        return _drawn({"validation": (INK, line)}, "PSNR (dB), held out") if line else None

    def _validated(self, name: Literal["val_loss", "val_psnr_db"]) -> Line:
        return [(point["step"], value) for point in self.curve if (value := point[name]) is not None]


def _drawn(lines: Mapping[str, tuple[str, Line]], label: str) -> str:
    """Return lines, each with its colour, by training step."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 9.5}):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for name, (colour, line) in lines.items():
            if line:
                axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.4, marker=".", label=name)
        axes.set_xlabel("step", color=MUTED)
        axes.set_ylabel(label, color=INK)
        axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return finished(figure, axes, grid="y")
