"""Segments from labels that come in the shard."""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from stages.errors import BadSampleError
from stages.segmentation.source import INT32, ClassSource, Labeller, SegmentInput, shown_size

DAMAGED_PNG = (struct.error, zlib.error, Image.DecompressionBombError)  # what Pillow lets through


class Labels(ClassSource):
    """Labels that come in the shard: a PNG of 8 or 16 bit grey or palette indices, or a `.npy` of integers."""

    kind: Literal["labels"] = "labels"
    member: str = Field("seg.png", min_length=1)  # the part of the file name after the sample's key

    def _labeller(self, device: str | torch.device) -> Labeller:
        def label(sample: SegmentInput) -> NDArray[np.int32]:
            if self.member not in sample.members:
                raise BadSampleError(
                    f"the sample has no labels {self.member!r}, only {sorted(sample.members)}: "
                    "add them to the shard or correct segmentation.member"
                )
            labels_HW = _decode(sample.members[self.member], self.member)
            if sample.fit is not None:
                labels_HW = np.asarray(sample.fit(labels_HW), dtype=np.int32)
            if labels_HW.shape != sample.size:
                raise BadSampleError(
                    f"the labels {self.member!r} are {shown_size(labels_HW.shape)}, the image is "
                    f"{shown_size(sample.size)}: make them of the same size"
                )
            return self.merged(labels_HW)

        return label


def _decode(data: bytes, member: str) -> NDArray[np.int32]:
    """Return the labels of a file, told by content."""
    try:
        if data.startswith(b"\x93NUMPY"):
            labels = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                labels = np.asarray(image)
    except (OSError, EOFError, ValueError, SyntaxError, MemoryError, *DAMAGED_PNG) as error:
        raise BadSampleError(
            f"the labels {member!r} cannot be read ({error}): wanted a PNG, or a .npy without objects"
        ) from error
    if labels.ndim != 2 or not (labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)) or labels.size == 0:
        raise BadSampleError(
            f"the labels {member!r} are {list(labels.shape)} of {labels.dtype}: wanted one integer a pixel, [H, W]"
        )
    if labels.min() < INT32.min or labels.max() > INT32.max:
        raise BadSampleError(f"the labels {member!r} reach {labels.max()}, and labels are 32 bit: renumber them")
    return np.asarray(labels, dtype=np.int32)
