"""Supervision: every image inverted in every single space, and where that went wrong (thesis Sec. 3.1, Eq. 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import resize_masks
from stages.inverter import Inverter, InvertingStage
from stages.region import fit, place, to_uint8
from stages.sources import column
from stages.stage import Record, Rejected, Sample, Worker, batched_worker
from stages.truth import auroc, known_occluder


@dataclass(frozen=True)
class _Target:
    key: str
    image_3HW: Tensor
    occluded_HW: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _OneSpace:
    """What one space makes of a batch."""

    psnr_db: list[float]
    lpips: list[float]
    error_NHW: NDArray[np.float16]
    image_NHW3: NDArray[np.uint8]
    diverged: list[bool]


class ErrorMaps(InvertingStage):
    """Invert each image in each single space; the spatial LPIPS of that inversion is its error map e_l (Eq. 3.1).

    Records `psnr_db_SPACE` and `lpips_SPACE` for every space and the array `error_LHW` (float16, most editable space
    first); with `truth`, also `occluded` and `auroc`, of the first space's map against the known occluder.
    """

    name: ClassVar[str] = "error_maps"

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"occluded": bool, "auroc": float}

    truth: str | None = None  # member of a sample that masks its occluder, white where occluded
    keep_images: bool = False  # also keep the single-space inversions, `image_LHW3` uint8

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; the worker inverts each batch once a space."""
        inverter = self.inverter(device)

        def prepare(sample: Sample) -> _Target:
            image = fit(sample.image(), inverter.region)
            return _Target(sample.key, image, known_occluder(sample, self.truth, inverter.region))

        def compute(targets: Sequence[_Target]) -> list[Record | Rejected]:
            batch = torch.stack([target.image_3HW for target in targets]).to(device)
            spaces = {space: _invert_in(inverter, space, batch) for space in inverter.generator.spaces}
            return [self._record(target, i, spaces) for i, target in enumerate(targets)]

        return batched_worker(prepare, compute, self.batch)

    def _record(self, target: _Target, i: int, spaces: dict[str, _OneSpace]) -> Record | Rejected:
        if bad := [space for space, one in spaces.items() if one.diverged[i]]:
            return Rejected(target.key, f"the inversion in {', '.join(bad)} became non-finite; lower the learning rate")
        row: dict[str, str | float | bool | None] = {}
        for space, one in spaces.items():
            row[f"psnr_db_{column(space)}"] = one.psnr_db[i]
            row[f"lpips_{column(space)}"] = one.lpips[i]
        first = next(iter(spaces.values()))
        row["occluded"] = None if target.occluded_HW is None else bool(target.occluded_HW.any())
        row["auroc"] = auroc(first.error_NHW[i], target.occluded_HW)
        arrays: dict[str, NDArray[np.generic]] = {"error_LHW": np.stack([one.error_NHW[i] for one in spaces.values()])}
        if self.keep_images:
            arrays["image_LHW3"] = np.stack([one.image_NHW3[i] for one in spaces.values()])
        return Record(target.key, row, arrays)


def _invert_in(inverter: Inverter, space: str, target_N3HW: Tensor) -> _OneSpace:
    """Invert a batch in one space; in a feature space w+ moves too, as the authors' code does."""
    masks = {}
    shapes = inverter.generator.feature_shapes
    if space in shapes:
        everywhere = place(torch.ones_like(target_N3HW[:, :1]), inverter.region, inverter.generator.resolution)
        masks[space] = resize_masks(everywhere, shapes[space][1:])
    inversion = inverter.invert(target_N3HW, masks)
    image = inverter.picture(inversion.codes)
    measures = inverter.measure(image, target_N3HW)
    return _OneSpace(
        measures.psnr_db.tolist(),
        measures.lpips.tolist(),
        measures.error_NHW.half().cpu().numpy(),
        to_uint8(image),
        inversion.diverged.tolist(),
    )
