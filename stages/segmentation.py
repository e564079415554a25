"""The semantic segmentation of an image, whose segments are each given one space (thesis 3.1 end, 3.2)."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from stages.errors import BadSampleError, WeightsError

INT32 = np.iinfo(np.int32)
DAMAGED_PNG = (struct.error, zlib.error, Image.DecompressionBombError)  # what Pillow lets through
Label = Annotated[int, Field(ge=INT32.min, le=INT32.max)]


@dataclass(frozen=True)
class SegmentInput:
    """One image to segment: the region that the maps look at, and what else its sample holds."""

    image_HW3: NDArray[np.uint8]
    """RGB."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """The files of the sample in its shard, by what follows the key in their names."""
    fit: Callable[[NDArray[np.int32]], NDArray[np.int32]] | None = None
    """The geometry that fitted the photograph to the region, with nearest sampling, for labels of the
    photograph's size; None where labels have the size of the region already."""

    def __post_init__(self) -> None:
        image = self.image_HW3
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
            raise ValueError(f"wanted an RGB image [H, W, 3] of uint8, got {list(image.shape)} of {image.dtype}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the region, and so of its labels."""
        return self.image_HW3.shape[0], self.image_HW3.shape[1]


Labeller = Callable[[SegmentInput], NDArray[np.int32]]  # raises BadSampleError
Segment = Callable[[Sequence[SegmentInput]], list[NDArray[np.int32] | BadSampleError]]


class _Source(BaseModel):
    """Where segments come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connected: bool = False  # split each label into its connected parts: two cars far apart need not share a space

    def load(self, device: str | torch.device) -> Segment:
        """Return the function that segments a batch: for each image `[H, W]` int32 labels, or what is wrong with it.

        Labels of an image never depend on its neighbours in the batch.

        Raises WeightsError where a network is missing or cannot be used.
        """
        labeller = self._labeller(device)

        def segment(samples: Sequence[SegmentInput]) -> list[NDArray[np.int32] | BadSampleError]:
            return [_segment_one(labeller, self.connected, sample) for sample in samples]

        return segment

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files that the labels depend on, for the fingerprint."""
        return ()

    def _labeller(self, device: str | torch.device) -> Labeller:
        raise NotImplementedError


class _Merging(_Source):
    """A source whose labels are classes that can be merged."""

    merge: dict[Label, Label] = Field(default_factory=dict)  # class as it comes -> label as it is used
    strict_merge: bool = False  # a class that merge does not list is a fault of its sample, else it stays as it is

    @model_validator(mode="after")
    def _strict_needs_a_table(self) -> Self:
        if self.strict_merge and not self.merge:
            raise ValueError("strict_merge refuses every class that merge does not list, and merge is empty: fill it")
        return self


class Labels(_Merging):
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
                    f"the labels {self.member!r} are {_size(labels_HW.shape)}, the image is {_size(sample.size)}: "
                    "make them of the same size"
                )
            return _merged(labels_HW, self.merge, self.strict_merge)

        return label


class Superpixels(_Source):
    """Segments of similar colour (SLIC), for images without a semantic network; deterministic."""

    kind: Literal["superpixels"] = "superpixels"
    segments: PositiveInt = 60  # about as many are made
    compactness: PositiveFloat = 10.0  # the larger, the more they follow a grid and the less the colours

    def _labeller(self, device: str | torch.device) -> Labeller:
        def label(sample: SegmentInput) -> NDArray[np.int32]:
            from skimage.segmentation import slic

            labels_HW = slic(
                sample.image_HW3, self.segments, compactness=self.compactness, start_label=0, channel_axis=-1
            )
            return np.asarray(labels_HW, dtype=np.int32)

        return label


class ExportedNetwork(_Merging):
    """A semantic segmentation network saved by `torch.export.save` (`.pt2`): RGB `[1, 3, H, W]` to class logits.

    Its output is the logits `[1, C, h, w]`, or a dict that holds them as `out` or `logits`, or a tuple that
    starts with them; they are resized to the image before the best class is taken. Images are run one by one,
    so that labels do not depend on the batch. Give only files that you trust: torch may run code from them.
    """

    kind: Literal["exported"] = "exported"
    weights: Path
    labels: PositiveInt | None = None  # number of classes, checked where given
    min_side_px: PositiveInt = 32  # smaller images are a fault of their sample
    value_range: tuple[float, float] = (-1.0, 1.0)  # what the network takes black and white to be

    def weight_files(self) -> tuple[Path, ...]:
        """Return the network's file."""
        return (self.weights,)

    def _labeller(self, device: str | torch.device) -> Labeller:
        network = _load_exported(self.weights, device)

        def label(sample: SegmentInput) -> NDArray[np.int32]:
            if min(sample.size) < self.min_side_px:
                raise BadSampleError(
                    f"the image is {_size(sample.size)}, and {self.weights.name} needs {self.min_side_px} px "
                    "on each side (segmentation.min_side_px)"
                )
            with torch.inference_mode():
                logits_1Chw = self._logits(network, self._network_input(sample.image_HW3, device))
                logits_1CHW = nn.functional.interpolate(logits_1Chw.float(), sample.size, mode="bilinear")
                labels_HW: NDArray[np.int32] = logits_1CHW[0].argmax(dim=0).to(torch.int32).cpu().numpy()
            return _merged(labels_HW, self.merge, self.strict_merge)

        return label

    def _network_input(self, image_HW3: NDArray[np.uint8], device: str | torch.device) -> Tensor:
        low, high = self.value_range
        x_HW3 = torch.tensor(np.ascontiguousarray(image_HW3), device=device)
        return x_HW3.permute(2, 0, 1)[None].float() / 255 * (high - low) + low

    def _logits(self, network: Callable[[Tensor], Any], x_13HW: Tensor) -> Tensor:
        try:
            logits = _first_logits(network(x_13HW))
        except AssertionError as error:
            if "Guard failed" not in str(error):
                raise
            raise BadSampleError(
                f"{self.weights.name} was exported for other sizes than {_size(x_13HW.shape[2:])}: {error}"
            ) from error
        shape = None if logits is None else list(logits.shape)
        if logits is None or logits.ndim != 4 or logits.shape[1] != (self.labels or logits.shape[1]):
            raise WeightsError(
                f"{self.weights}: wanted logits [1, {self.labels or 'C'}, h, w], got {shape or 'no tensor'}: "
                "export a segmentation network, and correct segmentation.labels"
            )
        return logits


class Whole(_Source):
    """One segment, the whole image: every pixel is inverted in the same space."""

    kind: Literal["whole"] = "whole"

    def _labeller(self, device: str | torch.device) -> Labeller:
        return lambda sample: np.zeros(sample.size, dtype=np.int32)


Segmentation = Annotated[Labels | Superpixels | ExportedNetwork | Whole, Field(discriminator="kind")]


def _segment_one(labeller: Labeller, connected: bool, sample: SegmentInput) -> NDArray[np.int32] | BadSampleError:
    try:
        labels_HW = labeller(sample)
    except BadSampleError as error:
        return BadSampleError(str(error))  # a new one: the traceback of the old keeps the image alive
    return connected_parts(labels_HW) if connected else labels_HW


def connected_parts(labels_HW: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return `[H, W]` int32 from 0: a number of its own for each connected part of each label.

    Pixels that touch at an edge or at a corner are connected.
    """
    _, index_HW = np.unique(labels_HW, return_inverse=True)
    from skimage import measure

    parts_HW = measure.label(  # type: ignore[no-untyped-call]
        index_HW.reshape(labels_HW.shape), background=-1, connectivity=2
    )
    return np.asarray(parts_HW - 1, dtype=np.int32)


def _merged(labels_HW: NDArray[np.int32], merge: Mapping[int, int], strict: bool) -> NDArray[np.int32]:
    if not merge:
        return labels_HW
    found_K, index_HW = np.unique(labels_HW, return_inverse=True)
    unlisted = [label for label in found_K.tolist() if label not in merge]
    if strict and unlisted:
        raise BadSampleError(
            f"segmentation.merge does not list the classes {unlisted} of this sample: list them, "
            "or turn segmentation.strict_merge off"
        )
    merged_K = np.array([merge.get(label, label) for label in found_K.tolist()], dtype=np.int32)
    return merged_K[index_HW.reshape(labels_HW.shape)]


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


def _load_exported(path: Path, device: str | torch.device) -> Callable[[Tensor], Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such segmentation network; correct segmentation.weights")
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # torch raises its own, zipfile's, json's and pickle's
        raise WeightsError(f"{path}: wanted a network written by torch.export.save (.pt2): {error}") from error
    if torch.device(device).type != "cpu":  # constants inside the program know only the device they came from
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    return program.module()


def _first_logits(output: object) -> Tensor | None:
    if isinstance(output, Mapping):
        output = output.get("out", output.get("logits"))
    elif isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]} px" if len(shape) == 2 else str(list(shape))
