"""Edits against the truth, where a shard holds the true images of edits, as procedural scenes can (thesis Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import Codes
from pipeline.errors import RunError
from stages.base.errors import BadSampleError
from stages.editing.editor import Editor
from stages.editing.settings import EditOfCodes
from stages.editing.true_images import read_true_images
from stages.inversion.viewer import MAX_PSNR_DB
from stages.maps.region import Region, fit, psnr_db

UNEDITED = "unedited"
"""The input itself, compared with the truth: what doing nothing gives."""


@dataclass(frozen=True)
class TrueEdits:
    """One image whose edits are known: what it shows, its occluder, and the true images by label of the edit."""

    key: str
    pixels_HW3: NDArray[np.uint8]
    occluded_HW: NDArray[np.bool_]  # of the region
    images: Mapping[str, NDArray[np.uint8]]  # `[H, W, 3]`, of the size of the input
    label: int | None = None  # its class, if the inversion knew one


@dataclass(frozen=True)
class EditMeasure:
    """One edit of one image by one method, against the truth. Changes are mean absolute ones of images in [0, 1]."""

    method: str
    direction: str
    magnitude: float
    psnr_db: float
    psnr_inside_db: float  # of the pixels that the true edit changes
    inside: float  # change where the true edit changes the image
    occluder: float  # change of the occluder, which no true edit changes


@dataclass(frozen=True)
class EditFigures:
    """Means over images and edits, by method."""

    psnr_to_truth_db: dict[str, float]
    psnr_inside_db: dict[str, float]
    inside_outside_ratio: dict[str, float | None]
    change_inside: dict[str, float]
    change_occluder: dict[str, float]


@dataclass(frozen=True)
class EditTruth:
    """How close edits come to the truth, over the held-out samples with an occluder."""

    samples: int
    magnitudes: tuple[float, ...]
    all: EditFigures
    by_direction: dict[str, EditFigures] = field(default_factory=dict)


def read_true_edits(data: bytes, name: str) -> dict[str, NDArray[np.uint8]]:
    """Return the true images of edits in an npz, by label.

    Args:
        data: of the file, which needs no pickle.
        name: how messages call it.

    Raises:
        RunError: it is not such a file.
    """
    try:
        return read_true_images(data, name)
    except BadSampleError as error:
        raise RunError(str(error)) from error


@torch.no_grad()
def measured(
    editors: Mapping[str, Editor], methods: Mapping[str, Codes], edits: Sequence[EditOfCodes], truth: TrueEdits
) -> Iterator[EditMeasure]:
    """Yield the measures of one image's edits that the truth has, by every method, then of the unedited input.

    Args:
        editors: by method, each of the generator that its codes belong to; of one region.
        methods: codes of the image (a batch of 1) by method.
        edits: the edits that are made; those without a true image are left out.
        truth: what the edits should be.
    """
    known = [edit for edit in edits if edit.label in truth.images]
    region = next(iter(editors.values())).region
    against = {edit.label: _Against.from_truth(region, truth, edit.label) for edit in known}
    for method, codes in methods.items():
        before, pictures = editors[method].pictures_of_one(codes, known, truth.label)
        before_3HW = before.image_N3HW[0].cpu()
        for edit, after in zip(known, pictures, strict=True):
            yield against[edit.label].measure(method, edit, after.image_N3HW[0].cpu(), before_3HW)
    for edit in known:
        input_3HW = against[edit.label].input_3HW
        yield against[edit.label].measure(UNEDITED, edit, input_3HW, input_3HW)


@dataclass(frozen=True)
class _Against:
    """What one edit of one image is compared with, `[3, H, W]` in [-1, 1]."""

    input_3HW: Tensor
    true_3HW: Tensor
    occluded_HW: Tensor

    @classmethod
    def from_truth(cls, region: Region, truth: TrueEdits, label: str) -> _Against:
        occluded_HW = torch.from_numpy(truth.occluded_HW)
        return cls(fit(truth.pixels_HW3, region), fit(truth.images[label], region), occluded_HW)

    def measure(self, method: str, edit: EditOfCodes, after_3HW: Tensor, before_3HW: Tensor) -> EditMeasure:
        change_HW = (after_3HW - before_3HW).abs().mean(0) / 2
        changed_HW = ((self.true_3HW - self.input_3HW).abs().amax(0) > 1 / 255) & ~self.occluded_HW
        whole = float(psnr_db(after_3HW[None], self.true_3HW[None])[0])
        of_changed = psnr_db(after_3HW[None, :, None, changed_HW], self.true_3HW[None, :, None, changed_HW])
        psnr_inside = float(of_changed[0]) if bool(changed_HW.any()) else whole
        inside, occluder = _mean(change_HW, changed_HW), _mean(change_HW, self.occluded_HW)
        return EditMeasure(
            method=method,
            direction=edit.name,
            magnitude=edit.magnitude,
            psnr_db=min(whole, MAX_PSNR_DB),
            psnr_inside_db=min(psnr_inside, MAX_PSNR_DB),
            inside=inside,
            occluder=occluder,
        )


def _mean(change_HW: Tensor, mask_HW: Tensor) -> float:
    return float(change_HW[mask_HW].mean()) if bool(mask_HW.any()) else 0.0


def summarised(measures: Sequence[EditMeasure], samples: int) -> EditTruth | None:
    """Return the means of the measures of some images, None if there are none."""
    if not measures:
        return None
    directions = dict.fromkeys(measure.direction for measure in measures)
    by_direction = {name: _figures([m for m in measures if m.direction == name]) for name in directions}
    magnitudes = tuple(sorted({measure.magnitude for measure in measures}))
    return EditTruth(samples, magnitudes, _figures(measures), by_direction)


def _figures(measures: Sequence[EditMeasure]) -> EditFigures:
    methods = dict.fromkeys(measure.method for measure in measures)
    of = {method: [measure for measure in measures if measure.method == method] for method in methods}
    inside = {method: fmean(measure.inside for measure in some) for method, some in of.items() if method != UNEDITED}
    occluder = {method: fmean(m.occluder for m in some) for method, some in of.items() if method != UNEDITED}
    return EditFigures(
        psnr_to_truth_db={method: fmean(measure.psnr_db for measure in some) for method, some in of.items()},
        psnr_inside_db={method: fmean(measure.psnr_inside_db for measure in some) for method, some in of.items()},
        inside_outside_ratio={
            method: inside[method] / occluder[method] if occluder[method] > 0 else None for method in inside
        },
        change_inside=inside,
        change_occluder=occluder,
    )
