"""The step of stored codes: the largest whose picture is still as good as that of the codes as found.

Each space gets one step. A first batch of pictures, in each of which one space is rounded, gives the squared error that
rounding causes per value; steps in the inverse ratio of its root spend the permitted error where it saves most. One
common factor remains, which two more batches find. Nothing depends on other images.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from generators.latents import Codes
from stages.base.in_parts import InParts
from stages.base.variant import Variant
from stages.inversion.packing import (
    FULL_MASK,
    LARGEST_CODE,
    Arrays,
    format_of,
    on_support,
    pack_codes,
    stored_mask,
    unpack_batch,
    unpack_codes,
)
from stages.inversion.viewer import Measures, Viewer

if TYPE_CHECKING:
    from stages.perceptual.distance import Features

DEFAULT_LOSS_DB = 0.05
MAX_LPIPS_LOSS = 0.001
"""The largest increase of the perceptual distance by rounding."""
_COARSE = (0.25, 0.5, 1.0, 2.0)
"""Factors tried first; 1 gives the permitted error if errors add up."""
_FINE = (0.25, 0.5, 0.75)
"""Exponents of the ratio of two coarse factors, by which the largest good one is then multiplied."""
_SMALLER = 0.1
_PROBE = 0.125
"""The step of a probe, as a part of the root mean square of a delta."""


class Packing(Variant):
    """How codes are stored."""

    max_loss_db: Annotated[float, Field(ge=0)] = DEFAULT_LOSS_DB
    """Largest loss of PSNR that rounding the stored deltas may cause in an image; 0 stores them in float16."""
    reconstructions: bool = False
    """Also store the picture of each image's codes, as `KEY.recon.webp` next to them; of new units only."""

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return nothing for the default: codes stored before without loss are within it."""
        return {} if self.max_loss_db == DEFAULT_LOSS_DB else {name: {"max_loss_db": self.max_loss_db}}


@dataclass(frozen=True)
class Packed:
    """The stored form of one image's codes, and its picture."""

    arrays: Arrays
    picture_13HW: Tensor
    """Of the codes as stored."""
    measures: Measures
    """Of that picture."""
    psnr_loss_db: float | None
    """By which the codes as found are better; negative where they are worse, None if that was not measured."""
    lpips_loss: float | None

    @property
    def format(self) -> str:
        """The largest type that the codes are stored in."""
        return format_of(self.arrays)


def pack_within(packing: Packing, codes: Codes, target_13HW: Tensor, viewer: Viewer) -> Packed:
    """Return codes stored with the largest steps whose picture is within the limits, in float16 if none is.

    Args:
        packing: the limits.
        codes: of one image, on the viewer's device.
        target_13HW: the photograph, in [-1, 1], on that device.
        viewer: shows and measures.
    """
    found_13HW = viewer.picture(codes)
    before = viewer.measure(found_13HW, target_13HW)

    def packed(steps: Mapping[str, float] | None) -> tuple[Packed, tuple[float, float]]:
        arrays = pack_codes(codes, 0, steps)
        picture_13HW = viewer.picture(unpack_codes(None, arrays, viewer.device))
        after = viewer.measure(picture_13HW, target_13HW)
        loss_db, lpips_loss = (before.psnr_db - after.psnr_db), (after.lpips - before.lpips)
        losses = float(loss_db), float(lpips_loss)
        return Packed(arrays, picture_13HW, after, *losses), losses

    within = functools.partial(_within, packing)
    if packing.max_loss_db > 0 and codes.deltas and bool(before.psnr_db.isfinite()):
        for steps in _Search(packing, codes, viewer, found_13HW, target_13HW, before).steps():
            found, losses = packed(steps)
            if within(*losses):  # a batch may differ from its images by rounding
                return found
    return packed(None)[0]


def pack_exactly(codes: Sequence[Codes], target_N3HW: Tensor, viewer: Viewer) -> list[Packed]:
    """Return codes of some images stored in float16, with their pictures and measures, made in one pass.

    Args:
        codes: of one image each, on the viewer's device.
        target_N3HW: their photographs, in [-1, 1], on that device.
        viewer: shows and measures.
    """
    arrays = [pack_codes(one, 0) for one in codes]
    picture_N3HW = viewer.picture(unpack_batch([(None, one) for one in arrays], viewer.device))
    measures = viewer.measure(picture_N3HW, target_N3HW)
    return [
        Packed(
            one, picture_N3HW[i : i + 1], Measures(measures.psnr_db[i : i + 1], measures.lpips[i : i + 1]), None, None
        )
        for i, one in enumerate(arrays)
    ]


def _within(packing: Packing, psnr_loss_db: float, lpips_loss: float) -> bool:
    return psnr_loss_db <= packing.max_loss_db and lpips_loss <= MAX_LPIPS_LOSS  # false for what is not finite


@dataclass(frozen=True)
class _Search:
    """Searches the steps of one image."""

    packing: Packing
    codes: Codes
    viewer: Viewer
    found_13HW: Tensor
    target_13HW: Tensor
    before: Measures

    def steps(self) -> Iterator[dict[str, float]]:
        """Yield steps by space whose pictures are within the limits, the largest first."""
        unit_L = self._units()
        for smaller in (1.0, _SMALLER, _SMALLER**2):
            coarse = [factor * smaller for factor in _COARSE]
            if good := self._good(unit_L, coarse):
                fine = [good[-1] * (_COARSE[1] / _COARSE[0]) ** part for part in _FINE]
                for factor in sorted({*good, *self._good(unit_L, fine)}, reverse=True):
                    yield dict(zip(self._values, (factor * unit_L).float().tolist(), strict=True))
                return

    def _units(self) -> Tensor:
        """Return the steps by space, `[L]` float64, whose errors would add up to the permitted one."""
        values = list(self._values.values())
        mean_square_L = torch.stack(
            [x.double().square().mean() if x.numel() else x.new_zeros(()).double() for x in values]
        )
        largest_L = torch.stack([x.double().abs().max() if x.numel() else x.new_zeros(()).double() for x in values])
        probe_L = (_PROBE * mean_square_L.sqrt()).clamp(min=1e-30).cpu()
        count_L = torch.tensor([max(1, x.numel()) for x in values], dtype=torch.float64)
        change_L = self._compared(torch.cat([probe_L.diag(), torch.zeros(1, len(values))]))[:, 2]
        per_value_L = ((change_L[:-1] - change_L[-1]).clamp(min=0) / count_L / probe_L.square()).clamp(min=1e-30)
        error = float((self.found_13HW - self.target_13HW).double().square().sum())
        permitted = max(error, 1e-6) * (10 ** (self.packing.max_loss_db / 10) - 1)
        unit_L = (permitted / count_L.sum() / per_value_L).sqrt()
        smallest_L = largest_L.cpu() / LARGEST_CODE / (_COARSE[0] * _SMALLER**2)
        return torch.where(largest_L.cpu() > 0, unit_L.clamp(min=1.01 * smallest_L, max=2 * largest_L.cpu()), 1.0)

    @functools.cached_property
    def _masks(self) -> dict[str, Tensor]:
        """The masks as they are stored, `[1, 1, h, w]`."""
        stored = {space: stored_mask(mask, rounded=True) for space, mask in self.codes.masks.items()}
        return {space: mask.float() / FULL_MASK for space, mask in stored.items()}

    @functools.cached_property
    def _values(self) -> dict[str, Tensor]:
        """The values of the deltas that are stored, `[C, n]`."""
        return {s: on_support(delta[0], self._masks[s][0, 0] > 0) for s, delta in self.codes.deltas.items()}

    @functools.cached_property
    def _features(self) -> Features:
        return self.viewer.perceptual.features(self.target_13HW)

    @functools.cached_property
    def _compared(self) -> InParts:
        return InParts(self._compare, "the search for the steps of stored codes", "lower invert.batch")

    def _good(self, unit_L: Tensor, factors: Sequence[float]) -> list[float]:
        """Return the factors whose pictures are within the limits, in their order."""
        losses = self._compared(torch.tensor(factors, dtype=torch.float64)[:, None] * unit_L).tolist()
        return [f for f, (psnr, lpips, _) in zip(factors, losses, strict=True) if _within(self.packing, psnr, lpips)]

    def _compare(self, step_KL: Tensor) -> Tensor:
        """Return, for each choice of steps, the losses of PSNR and perceptual distance and the squared change.

        Args:
            step_KL: by space; a delta with the step 0 is not rounded.

        Returns:
            `[K, 3]` float64, on the CPU.
        """
        step_LK = step_KL.float().T.tolist()
        spaces = zip(self.codes.deltas.items(), step_LK, strict=True)
        deltas = {s: torch.cat([_rounded(delta, step) for step in steps]) for (s, delta), steps in spaces}
        count = len(step_KL)
        masks = {space: mask.expand(count, -1, -1, -1) for space, mask in self._masks.items()}
        w_plus = self.codes.w_plus.half().float().expand(count, -1, -1)
        picture_K3HW = self.viewer.picture(Codes(w_plus, deltas, masks))
        after = self.viewer.measure_with(picture_K3HW, self.target_13HW, self._features)
        change_K = (picture_K3HW - self.found_13HW).double().square().sum(dim=(1, 2, 3))
        losses = self.before.psnr_db - after.psnr_db, (after.lpips - self.before.lpips).double(), change_K
        return torch.stack(losses, dim=1).cpu()


def _rounded(delta_1Chw: Tensor, step: float) -> Tensor:
    return (delta_1Chw / step).round() * step if step else delta_1Chw
