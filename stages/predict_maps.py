"""Invertibility maps of every image, one forward pass of the segmenter (thesis Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from stages.base.batched_worker import batched_worker
from stages.base.in_parts import InParts
from stages.base.stage import Record, Rejected, Sample, Sizes, Stage, Worker
from stages.base.transfer import to_device, to_host
from stages.images.image_member import ImageMember
from stages.maps.reduction import fit_reduced
from stages.maps.region import Region
from stages.maps.spaces import column
from stages.maps.stored import stored_maps
from stages.maps.truth import auroc, known_occluder
from stages.segmenter.network import load_segmenter


@dataclass(frozen=True)
class _Input:
    key: str
    image_3HW: Tensor
    occluded_HW: NDArray[np.bool_] | None


class PredictMaps(Stage):
    """Predict the error map of every space, S_l(x), at `map_side_px`.

    Records `error_SPACE`, the mean predicted error, and the array `error_LHW` (`stages.maps.stored`, most editable
    space first); with `truth`, also `auroc` of the first space's map against the known occluder.
    """

    name: ClassVar[str] = "predict_maps"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("train_segmenter",)
    member: ClassVar[str] = "maps"

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"auroc": float}

    segmenter: Path  # the checkpoint of train_segmenter
    region: Region
    map_side_px: PositiveInt | None = 256  # longest side of the maps; None is the region's
    image: ImageMember = ImageMember()
    truth: str | None = None
    batch: PositiveInt = 64  # images at a time

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return the bytes of float16 maps."""
        return sizes.spaces * 2 * sizes.map_px

    def setup(self, device: torch.device) -> Worker:
        """Load the segmenter; the worker runs it once per batch."""
        segmenter = load_segmenter(self.segmenter, device)
        predict = InParts(segmenter, "the segmenter's forward pass")

        def prepare(sample: Sample) -> _Input:
            picture = self.image.picture(sample)
            image_3hw = fit_reduced(picture.pixels_HW3, self.region, self.map_side_px)
            occluded_HW = known_occluder(sample, self.truth, picture.geometry, self.region, self.map_side_px)
            return _Input(sample.key, image_3hw, occluded_HW)

        @torch.no_grad()
        def compute(inputs: Sequence[_Input]) -> Iterator[Record | Rejected]:
            batch_N3HW = to_device(torch.stack([one.image_3HW for one in inputs]), device)
            return _records(inputs, to_host(predict(batch_N3HW).float()), segmenter.spaces)

        return batched_worker(prepare, compute, self.batch)


def _records(
    inputs: Sequence[_Input], predicted: Callable[[], Tensor], spaces: Sequence[str]
) -> Iterator[Record | Rejected]:
    """Yield the records of a batch, as soon as its maps `[N, L, H, W]` float32 have come from the device."""
    error_NLHW = predicted()
    finite_N = error_NLHW.isfinite().all(dim=(1, 2, 3)).tolist()
    mean_NL = error_NLHW.numpy().mean(axis=(2, 3)).tolist()
    columns = [f"error_{column(space)}" for space in spaces]
    for i, one in enumerate(inputs):
        if not finite_N[i]:
            yield Rejected(one.key, "the predicted maps are not finite; check the segmenter's training curve")
            continue
        found = auroc(error_NLHW[i, 0].numpy(), one.occluded_HW)
        row: dict[str, float | None] = dict(zip(columns, mean_NL[i], strict=True)) | {"auroc": found}
        yield Record(one.key, row, {"error_LHW": stored_maps(error_NLHW[i].numpy())})
