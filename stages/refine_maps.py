"""Assigning spaces to segments: the mean predicted error of each against τ (thesis Sec. 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from stages.base.batched_worker import batched_worker
from stages.base.errors import BadSampleError, SettingError
from stages.base.stage import Record, Rejected, Sample, Sizes, Stage, Worker
from stages.images.image_member import ImageMember
from stages.maps.assignment import assign_spaces
from stages.maps.connected_parts import connected_parts
from stages.maps.reduction import at_size, reduced_size
from stages.maps.region import Region, fit, fit_labels, to_uint8
from stages.maps.spaces import column
from stages.segmentation import Segmentation, SegmentInput, Superpixels

__all__ = ["RefineMaps", "assign_spaces"]

PREDICTED = "predict_maps"  # the stage whose records it reads


@dataclass(frozen=True)
class _Input:
    key: str
    error_LHW: NDArray[np.float32]
    picture: SegmentInput


class ClassMap(BaseModel):
    """An assignment by classes alone, without any predicted error (thesis Fig. 4.7, the ablation)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[int, ...], Field(min_length=1)]  # labels of the segmentation that are in the first space
    rest: str | None = None  # space of all other pixels, as F6; None is the last one

    def index_of_rest(self, spaces: Sequence[str]) -> int:
        """Return the index of the space of all other pixels; raise `SettingError` if there is no such space."""
        if self.rest is not None and self.rest not in spaces:
            raise SettingError(
                f"refine_maps.class_map.rest: there is no space {self.rest!r} in this run; choose among "
                f"{', '.join(spaces)}"
            )
        return len(spaces) - 1 if self.rest is None else list(spaces).index(self.rest)

    def assigned(self, labels_HW: NDArray[np.integer], spaces: Sequence[str]) -> NDArray[np.uint8]:
        """Return the assignment of labels, `[H, W]` index into the spaces; raise `SettingError` as above."""
        return np.where(np.isin(labels_HW, self.classes), 0, self.index_of_rest(spaces)).astype(np.uint8)


class RefineMaps(Stage):
    """Give each segment the most editable space that inverts it.

    Segments have the region's size, so that thin ones have pixels. Maps, which are smaller if the region is larger
    than `map_side_px`, are enlarged to it pixel by pixel, so that a segment's mean is over the compared values.

    Records `share_SPACE`, the share of pixels each space was given, `error`, the mean predicted error of every pixel in
    the space it was given, and the arrays `assignment_HW` (uint8 index into the spaces) and `labels_HW` (int32, the
    segments).
    """

    name: ClassVar[str] = "refine_maps"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = (PREDICTED,)

    spaces: tuple[str, ...]
    region: Region
    map_side_px: PositiveInt | None = 256  # longest side of the maps; None is the region's
    threshold: PositiveFloat = 0.225  # tau, in LPIPS; a space is refused if its mean over a segment is larger
    image: ImageMember = ImageMember()
    segmentation: Segmentation = Superpixels()  # the source of segments, by its kind
    connected_components: bool = False
    """Split each segment into its connected parts: two distant cars need not share a space."""
    class_map: ClassMap | None = None
    """For comparison: give listed classes the first space and all other pixels one space, whatever the maps predict, as
    {classes: [3], rest: F6}."""
    batch: PositiveInt = 16  # images at a time

    added: ClassVar[Mapping[str, object]] = {"class_map": None}

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return the bytes of a uint8 assignment and int32 labels."""
        return sizes.region_px * 5

    def setup(self, device: torch.device) -> Worker:
        """Load the segmentation; the worker assigns each image by itself."""
        if self.class_map is not None:
            self.class_map.index_of_rest(self.spaces)
        segment = self.segmentation.load(device)

        def prepare(sample: Sample) -> _Input:
            error_LHW = self._maps(sample)
            photograph = self.image.picture(sample)
            image_HW3 = to_uint8(fit(photograph.pixels_HW3, self.region)[None])[0]
            picture = SegmentInput(
                image_HW3, sample.members, lambda labels: fit_labels(labels, self.region), photograph.geometry
            )
            return _Input(sample.key, error_LHW, picture)

        def compute(inputs: Sequence[_Input]) -> Iterator[Record | Rejected]:
            segmented = segment([one.picture for one in inputs])
            return (self._record(one, labels_HW) for one, labels_HW in zip(inputs, segmented, strict=True))

        return batched_worker(prepare, compute, self.batch)

    def _maps(self, sample: Sample) -> NDArray[np.float32]:
        """Return the predicted maps of a sample, `[L, H, W]`; raise BadSampleError if they decide nothing."""
        record = sample.records.get(PREDICTED)
        if record is None or "error_LHW" not in record.arrays:
            raise BadSampleError(
                f"the sample has no predicted maps: its bundle of {PREDICTED} lacks them; make it again"
            )
        error_LHW = record.arrays["error_LHW"].astype(np.float32)
        wanted = (len(self.spaces), *reduced_size(self.region.size, self.map_side_px))
        if error_LHW.shape != wanted:
            raise BadSampleError(
                f"the predicted maps are {list(error_LHW.shape)}, but spaces, region "
                f"and size of maps need {list(wanted)}: predict them again"
            )
        bad = [s for s, error_HW in zip(self.spaces, error_LHW, strict=True) if not np.isfinite(error_HW).all()]
        if bad:
            raise BadSampleError(
                f"the predicted maps of {', '.join(bad)} are not finite: check the segmenter's training curve"
            )
        if not error_LHW.any():
            raise BadSampleError(
                "the predicted maps are zero everywhere in every space, which no inversion reaches: the segmenter says "
                "nothing about this image; train it on images like this one"
            )
        return error_LHW

    def _record(self, one: _Input, labels_HW: NDArray[np.int32] | BadSampleError) -> Record | Rejected:
        if isinstance(labels_HW, BadSampleError):
            return Rejected(one.key, str(labels_HW))
        classes_HW = labels_HW
        if self.connected_components:
            labels_HW = connected_parts(labels_HW)
        error_LHW = at_size(one.error_LHW, labels_HW.shape)
        if self.class_map is None:
            assignment_HW = assign_spaces(error_LHW, labels_HW, self.threshold)
        else:
            assignment_HW = self.class_map.assigned(classes_HW, self.spaces)
        counts = np.bincount(assignment_HW.ravel(), minlength=len(self.spaces)) / assignment_HW.size
        row = {f"share_{column(space)}": float(share) for space, share in zip(self.spaces, counts, strict=True)}
        error_1HW = np.take_along_axis(error_LHW, assignment_HW[None].astype(np.intp), axis=0)
        row["error"] = float(error_1HW.mean(dtype=np.float64))
        return Record(one.key, row, {"assignment_HW": assignment_HW, "labels_HW": labels_HW})
