"""Segments from labels in the shard."""

import io
import math
import threading
from typing import Literal

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from stages.base.errors import BadSampleError
from stages.base.faults import described
from stages.images.decoding import decode_values
from stages.images.members import Member
from stages.images.orientation import upright_like
from stages.segmentation.source import INT32, ClassSource, Labeller, SegmentInput

NUMPY = b"\x93NUMPY"
_parsing = threading.Lock()  # numpy reads headers with `ast`, which in Python 3.11 several threads must not do at once


class Labels(ClassSource):
    """Labels in the shard: a PNG of grey levels of any depth or palette indices, or a `.npy` of integers.

    They have the size of their image and are turned like it (`upright_like`).
    """

    kind: Literal["labels"] = "labels"
    member: Member = "seg.png"  # the part of the file name after the sample's key

    def _labeller(self, device: str | torch.device) -> Labeller:
        def label(sample: SegmentInput) -> NDArray[np.int32]:
            if self.member not in sample.members:
                raise BadSampleError(
                    f"the sample has no labels {self.member!r}, only {sorted(sample.members)}: "
                    "add them to the shard or correct segmentation.member"
                )
            stored_HW, tag = _decode(sample.members[self.member], self.member)
            labels_HW = upright_like(stored_HW, tag, sample.geometry, self.member)
            if sample.fit is not None:
                labels_HW = np.asarray(sample.fit(labels_HW), dtype=np.int32)
            return self.merged(labels_HW)

        return label


def _decode(data: bytes, member: str) -> tuple[NDArray[np.int32], int | None]:
    """Return the labels of a file, recognised by content, and its own orientation, None without one."""
    tag = None
    if data.startswith(NUMPY):
        labels = _npy(data, member)
    else:
        labels, tag = decode_values(data, member)
    if labels.ndim != 2 or not (labels.dtype == bool or np.issubdtype(labels.dtype, np.integer)) or labels.size == 0:
        raise BadSampleError(
            f"the labels {member!r} are {list(labels.shape)} of {labels.dtype}: expected one integer per pixel, [H, W]"
        )
    if labels.min() < INT32.min or labels.max() > INT32.max:
        raise BadSampleError(f"the labels {member!r} reach {labels.max()}, but labels have 32 bits: renumber them")
    return np.asarray(labels, dtype=np.int32), tag


def _npy(data: bytes, member: str) -> NDArray[np.generic]:
    """Return the array of a `.npy`."""
    try:
        with _parsing:
            _refuse_promises(data)
            array: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except (MemoryError, SystemError):
        raise
    except Exception as error:  # of any kind: its header is parsed as Python
        raise BadSampleError(
            f"{member} does not decode ({len(data)} bytes): {described(error)}; "
            "expected a .npy of integers without objects"
        ) from error
    return array


def _refuse_promises(data: bytes) -> None:
    """Raise `ValueError` for a `.npy` whose header announces more than follows: numpy would allocate it."""
    stream = io.BytesIO(data)
    read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    promised, follow = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if promised > follow and not dtype.hasobject:
        raise ValueError(f"its header announces {promised} bytes, but {follow} follow")
