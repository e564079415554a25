"""Invertibility maps of every image, one forward pass of the segmenter (thesis Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.region import Region, fit
from stages.segmenter import load_segmenter
from stages.sources import column
from stages.stage import Record, Rejected, Sample, Stage, Worker, batched_worker
from stages.truth import auroc, known_occluder


@dataclass(frozen=True)
class _Input:
    key: str
    image_3HW: Tensor
    occluded_HW: NDArray[np.bool_] | None


class PredictMaps(Stage):
    """Predict the error map of every space, S_l(x).

    Records `error_SPACE`, the mean predicted error, and the array `error_LHW` (float16, most editable space first);
    with `truth`, also `auroc` of the first space's map against the known occluder.
    """

    name: ClassVar[str] = "predict_maps"
    reads: ClassVar[tuple[str, ...]] = ("train_segmenter",)

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"auroc": float}

    segmenter: Path  # the checkpoint that train_segmenter made
    region: Region
    truth: str | None = None
    batch: int = 64

    def setup(self, device: torch.device) -> Worker:
        """Load the segmenter; the worker runs it once a batch."""
        segmenter = load_segmenter(self.segmenter, device)

        def prepare(sample: Sample) -> _Input:
            return _Input(sample.key, fit(sample.image(), self.region), known_occluder(sample, self.truth, self.region))

        @torch.no_grad()
        def compute(inputs: Sequence[_Input]) -> list[Record | Rejected]:
            batch = torch.stack([one.image_3HW for one in inputs]).to(device)
            error_NLHW = segmenter(batch).float().cpu().numpy()
            return [
                _record(one, error_LHW, segmenter.spaces) for one, error_LHW in zip(inputs, error_NLHW, strict=True)
            ]

        return batched_worker(prepare, compute, self.batch)


def _record(one: _Input, error_LHW: NDArray[np.float32], spaces: Sequence[str]) -> Record | Rejected:
    if not np.isfinite(error_LHW).all():
        return Rejected(one.key, "the predicted maps are not finite; is the segmenter's training curve?")
    row: dict[str, float | None] = {
        f"error_{column(s)}": float(e.mean()) for s, e in zip(spaces, error_LHW, strict=True)
    }
    row["auroc"] = auroc(error_LHW[0], one.occluded_HW)
    return Record(one.key, row, {"error_LHW": error_LHW.astype(np.float16)})
