"""The contract of a source of segments, and the merging of classes that sources of classes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from stages.base.errors import BadSampleError, WeightsError
from stages.images.orientation import Geometry

INT32 = np.iinfo(np.int32)
Label = Annotated[int, Field(ge=int(INT32.min), le=int(INT32.max))]


@dataclass(frozen=True)
class SegmentInput:
    """One image to segment: the region that the maps cover, and what else its sample holds."""

    image_HW3: NDArray[np.uint8]
    """RGB."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """The files of the sample in its shard, by the part of their names after the key."""
    fit: Callable[[NDArray[np.int32]], NDArray[np.int32]] | None = None
    """The geometry that fitted the photograph to the region, with nearest sampling, for labels of the
    photograph's size; None where labels have the size of the region already."""
    photograph: Geometry | None = None
    """Size and orientation of the photograph before it was fitted; None where the image was not fitted."""

    def __post_init__(self) -> None:
        image = self.image_HW3
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
            raise ValueError(f"expected an RGB image [H, W, 3] of uint8, got {list(image.shape)} of {image.dtype}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the region, and so of its labels."""
        return self.image_HW3.shape[0], self.image_HW3.shape[1]

    @property
    def geometry(self) -> Geometry:
        """The photograph's; if it was not fitted, the region's."""
        return self.photograph or Geometry(*self.size)


Labeller = Callable[[SegmentInput], NDArray[np.int32]]  # raises BadSampleError
Segment = Callable[[Sequence[SegmentInput]], list[NDArray[np.int32] | BadSampleError]]


class Source(BaseModel, ABC):
    """A source of segments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def load(self, device: str | torch.device) -> Segment:
        """Return the function that segments a batch: for each image `[H, W]` int32 labels, or why it failed.

        Labels of an image never depend on its neighbours in the batch.

        Raises WeightsError if a network is missing or unusable.
        """
        self.check()
        labeller = self._labeller(device)

        def segment(samples: Sequence[SegmentInput]) -> list[NDArray[np.int32] | BadSampleError]:
            return [_segment_one(labeller, sample) for sample in samples]

        return segment

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files and folders that the labels depend on."""
        return ()

    def check(self) -> None:
        """Raise WeightsError if `load` would lack something; load nothing, so that a run can check before it starts."""
        for path in self.weight_files():
            if not path.exists():
                raise WeightsError(f"{path}: no such segmentation network; correct the path under segmentation")

    @abstractmethod
    def _labeller(self, device: str | torch.device) -> Labeller:
        """Return the function that labels one sample."""


class ClassSource(Source):
    """A source whose labels are classes that can be merged."""

    merge: dict[Label, Label] = Field(default_factory=dict)  # class of the source -> label
    strict_merge: bool = False  # quarantine samples with a class that merge does not list; otherwise the class is kept

    @model_validator(mode="after")
    def _strict_needs_a_table(self) -> Self:
        if self.strict_merge and not self.merge:
            raise ValueError("strict_merge refuses every class that merge does not list, and merge is empty: fill it")
        return self

    def merged(self, classes_HW: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the labels of classes, `[H, W]`; raise BadSampleError for a class that a strict merge lacks."""
        if not self.merge:
            return classes_HW
        found_K, index_HW = np.unique(classes_HW, return_inverse=True)
        unlisted = [label for label in found_K.tolist() if label not in self.merge]
        if self.strict_merge and unlisted:
            raise BadSampleError(
                f"segmentation.merge does not list the classes {unlisted} of this sample: list them, "
                "or turn segmentation.strict_merge off"
            )
        merged_K = np.array([self.merge.get(label, label) for label in found_K.tolist()], dtype=np.int32)
        return merged_K[index_HW.reshape(classes_HW.shape)]


class NetworkSource(ClassSource):
    """A source whose labels are the classes that a network predicts. Images are run one by one."""

    min_side_px: PositiveInt = 32  # quarantine images with a smaller side, before or after fitting

    def refuse_small(self, sample: SegmentInput, network: str) -> None:
        """Raise BadSampleError if the sample is too small for its network."""
        for size in (sample.geometry.size, sample.size):
            if min(size) < self.min_side_px:
                raise BadSampleError(
                    f"the image is {shown_size(size)}, but {network} needs {self.min_side_px} px "
                    "on each side (segmentation.min_side_px)"
                )


def shown_size(shape: Sequence[int]) -> str:
    """Return a shape as messages show it."""
    return f"{shape[0]} x {shape[1]} px" if len(shape) == 2 else str(list(shape))


def _segment_one(labeller: Labeller, sample: SegmentInput) -> NDArray[np.int32] | BadSampleError:
    try:
        return labeller(sample)
    except BadSampleError as error:
        return BadSampleError(str(error))  # a new error: the traceback of the old one keeps the image alive
