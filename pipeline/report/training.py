"""The segmenter's training in the report: its learning curve, a few predictions, and excluded examples."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from infra.receipts import Ledger, Receipt
from pipeline.data.receipt_info import TrainingInfo
from pipeline.data.trained_networks import CURVE_FILE, PICTURES_FILE
from pipeline.report.charts import INK, LABEL_CHARACTERS, MUTED, Drawing, finished, space_colour
from stages.segmenter.validation import Epoch


@dataclass(frozen=True)
class TrainingReport:
    """A committed training, in the page's form."""

    spaces: tuple[str, ...]
    learnt: int  # examples, those held out for validation included
    curve: Sequence[Epoch]
    rejected: Mapping[str, str]  # excluded examples, by key, with the reason
    pictures: Drawing  # true and predicted maps of a few examples
    fitted_to: str = "square roots of errors"  # the target of the losses

    @classmethod
    def from_receipt(cls, ledger: Ledger, receipt: Receipt, spaces: tuple[str, ...]) -> TrainingReport:
        """Return the report of a committed training."""
        curve: list[Epoch] = json.loads(ledger.read_file(receipt, CURVE_FILE))
        png = ledger.read_file(receipt, PICTURES_FILE)
        uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        pictures = Drawing(uri, *Image.open(io.BytesIO(png)).size)
        fitted_to = "errors" if TrainingInfo.from_receipt(receipt).target == "error" else "square roots of errors"
        return cls(spaces, len(receipt.recorded), curve, receipt.quarantined, pictures, fitted_to)

    @property
    def kept(self) -> Epoch:
        """The epoch whose weights were kept."""
        return [point for point in self.curve if point["kept"]][-1]

    def draw_losses(self) -> str:
        """Return the losses by epoch as an `<svg>` that takes the page's colours; dashed: predicting the mean."""
        epochs = [point["epoch"] + 1 for point in self.curve]
        validated = [(point["epoch"] + 1, loss) for point in self.curve if (loss := point["val_loss"]) is not None]
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "losses", "font.size": 9.5}):
            figure = Figure(figsize=(4.7, 2.9), layout="constrained")
            axes = figure.add_subplot()
            mean_losses = [point["mean_loss"] for point in self.curve]
            axes.plot(epochs, mean_losses, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="mean")
            losses = [point["train_loss"] for point in self.curve]
            axes.plot(epochs, losses, color=MUTED, linewidth=1.4, marker=".", label="training")
            if validated:
                axes.plot(*zip(*validated, strict=True), color=INK, linewidth=1.4, marker=".", label="validation")
            axes.set_ylim(bottom=0)
            axes.set_xlabel("epoch", color=MUTED)
            axes.set_ylabel(fill(f"loss, on {self.fitted_to}", LABEL_CHARACTERS), color=INK)
            axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            return finished(figure, axes, grid="y")

    def draw_correlations(self) -> str | None:
        """Return the correlation per space by epoch as an `<svg>`; None if nothing was held out."""
        lines = {
            space: [(point["epoch"] + 1, r) for point in self.curve if (r := point["correlation"][space]) is not None]
            for space in self.spaces
        }
        if not any(lines.values()):
            return None
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "correlations", "font.size": 9.5}):
            figure = Figure(figsize=(4.7, 2.9), layout="constrained")
            axes = figure.add_subplot()
            for space, line in lines.items():
                if line:
                    axes.plot(*zip(*line, strict=True), color=space_colour(space), marker=".", label=space)
            axes.set_xlabel("epoch", color=MUTED)
            axes.set_ylabel(fill("correlation per pixel, held out", LABEL_CHARACTERS), color=INK)
            axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            return finished(figure, axes, grid="y")
