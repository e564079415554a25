"""Supervision: every image inverted in every single space, and where that went wrong (thesis Sec. 3.1, Eq. 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import resize_masks
from stages.batched_worker import batched_worker
from stages.inverter import Inverter, InvertingStage
from stages.region import fit, place, to_uint8
from stages.sources import column
from stages.stage import Record, Rejected, Sample, Worker
from stages.truth import auroc, known_occluder

T = TypeVar("T")


@dataclass(frozen=True)
class _Target:
    key: str
    image_3HW: Tensor
    occluded_HW: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Item:
    """An image of the batch in one space: what the optimiser inverts."""

    image: int
    space: str


@dataclass(frozen=True)
class _InOneSpace:
    """What one space makes of one image."""

    psnr_db: float
    lpips: float
    error_HW: NDArray[np.float16]
    image_HW3: NDArray[np.uint8]
    loss_K: NDArray[np.float32]
    step_K: NDArray[np.int64]
    diverged: bool


class ErrorMaps(InvertingStage):
    """Invert each image in each single space; the spatial LPIPS of that inversion is its error map e_l (Eq. 3.1).

    Records `psnr_db_SPACE` and `lpips_SPACE` for every space, the digest of the generator, name and digest of the
    perceptual distance, and, most editable space first, the arrays `spaces` (their names), `error_LHW` (float16) and
    `loss_LK`, the loss before the update of each of the steps in `loss_step`; with `truth`, also `occluded` and
    `auroc`, of the first space's map against the known occluder.
    """

    name: ClassVar[str] = "error_maps"
    version: ClassVar[int] = 2

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"occluded": bool, "auroc": float}

    truth: str | None = None  # member of a sample that masks its occluder, white where occluded
    keep_images: bool = False  # also keep the single-space inversions, `image_LHW3` uint8

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; the worker inverts `batch` items, an image in a space, at a time."""
        inverter = self.inverter(device)

        def prepare(sample: Sample) -> _Target:
            image = fit(sample.image(), inverter.region)
            return _Target(sample.key, image, known_occluder(sample, self.truth, inverter.region))

        def compute(targets: Sequence[_Target]) -> Iterator[Record | Rejected]:
            images = torch.stack([target.image_3HW for target in targets]).to(device)
            items = [_Item(i, space) for i in range(len(targets)) for space in inverter.generator.spaces]
            found = [one for group in even_groups(items, self.batch) for one in _invert_items(inverter, group, images)]
            count = len(inverter.generator.spaces)
            by_image = [found[i * count : (i + 1) * count] for i in range(len(targets))]
            return (self._record(inverter, target, one) for target, one in zip(targets, by_image, strict=True))

        return batched_worker(prepare, compute, self.batch)

    def _record(self, inverter: Inverter, target: _Target, found: Sequence[_InOneSpace]) -> Record | Rejected:
        spaces = dict(zip(inverter.generator.spaces, found, strict=True))
        if bad := [space for space, one in spaces.items() if one.diverged]:
            return Rejected(target.key, f"the inversion in {', '.join(bad)} became non-finite; lower the learning rate")
        row: dict[str, str | float | bool | None] = {}
        for space, one in spaces.items():
            row[f"psnr_db_{column(space)}"] = one.psnr_db
            row[f"lpips_{column(space)}"] = one.lpips
        row["occluded"] = None if target.occluded_HW is None else bool(target.occluded_HW.any())
        row["auroc"] = auroc(found[0].error_HW, target.occluded_HW)
        row["generator"] = inverter.generator.digest
        row["perceptual"] = inverter.perceptual.name
        row["perceptual_digest"] = inverter.perceptual.digest
        arrays: dict[str, NDArray[np.generic]] = {
            "spaces": np.asarray(list(spaces)),
            "error_LHW": np.stack([one.error_HW for one in found]),
            "loss_LK": np.stack([one.loss_K for one in found]),
            "loss_step": found[0].step_K,
        }
        if self.keep_images:
            arrays["image_LHW3"] = np.stack([one.image_HW3 for one in found])
        return Record(target.key, row, arrays)


def even_groups(items: Sequence[T], largest: int) -> Iterator[Sequence[T]]:
    """Yield the items in as few groups of at most `largest` as can be, all about equally large."""
    count = -(-len(items) // max(1, largest))
    bounds = [len(items) * number // count for number in range(count + 1)]
    return (items[start:stop] for start, stop in itertools.pairwise(bounds))


def _invert_items(inverter: Inverter, items: Sequence[_Item], image_N3HW: Tensor) -> list[_InOneSpace]:
    """Invert every item, all in one batch; in a feature space w+ moves too, as the authors' code does."""
    target_I3HW = image_N3HW[[item.image for item in items]]
    inversion = inverter.invert(target_I3HW, _masks(inverter, items, target_I3HW))
    image_I3HW = inverter.picture(inversion.codes)
    measures = inverter.measure(image_I3HW, target_I3HW)
    error_IHW, pixels_IHW3 = measures.error_NHW.half().cpu().numpy(), to_uint8(image_I3HW)
    loss_IK, step_K = inversion.trace.terms["total"].T.float().numpy(), inversion.trace.steps.numpy()
    found = zip(measures.psnr_db.tolist(), measures.lpips.tolist(), inversion.diverged.tolist(), strict=True)
    return [
        _InOneSpace(psnr_db, lpips, error_IHW[i], pixels_IHW3[i], loss_IK[i], step_K, diverged)
        for i, (psnr_db, lpips, diverged) in enumerate(found)
    ]


def _masks(inverter: Inverter, items: Sequence[_Item], target_I3HW: Tensor) -> dict[str, Tensor]:
    """Return the masks of the feature spaces that items are in: the whole region for these, nothing for others."""
    whole_11HW = place(torch.ones_like(target_I3HW[:1, :1]), inverter.region, inverter.generator.resolution)
    masks = {}
    for space, shape in inverter.generator.feature_shapes.items():
        here_I = [float(item.space == space) for item in items]
        if any(here_I):
            masks[space] = resize_masks(whole_11HW, shape[1:]) * whole_11HW.new_tensor(here_I).view(-1, 1, 1, 1)
    return masks
