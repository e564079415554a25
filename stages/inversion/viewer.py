"""Shows what codes look like, and measures how close that comes to a photograph. It needs no prior and no optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from stages.maps.region import Region, crop, psnr_db

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual

MAX_PSNR_DB = 100.0
"""Recorded for equal images, whose PSNR is infinite: neither means nor JSON can hold infinity."""


@dataclass(frozen=True)
class Measures:
    """How close images are to their targets, over the region: `psnr_db [N]`, at most `MAX_PSNR_DB`, and `lpips [N]`."""

    psnr_db: Tensor
    lpips: Tensor


@dataclass(frozen=True)
class Viewer:
    """A generator, a perceptual distance and the region of the generator's canvas that both look at."""

    generator: Generator
    perceptual: Perceptual
    region: Region
    spaces: tuple[str, ...]  # most editable first, the generator's first among them

    @property
    def device(self) -> torch.device:
        """Where the generator is, and where codes are expected."""
        return next(self.generator.parameters()).device

    @torch.no_grad()
    def picture(self, codes: Codes) -> Tensor:
        """Return the region of the images that codes form, `[N, 3, h, w]` clamped to [-1, 1]."""
        image = self.generator.synthesize(codes.w_plus, codes.deltas, codes.masks)
        return crop(image, self.region).clamp(-1, 1)

    @torch.no_grad()
    def measure(self, image_N3HW: Tensor, target_N3HW: Tensor) -> Measures:
        """Return the measures of images against their targets, both `[N, 3, h, w]` in [-1, 1]."""
        features = self.perceptual.features(target_N3HW)
        return Measures(
            psnr_db(image_N3HW, target_N3HW).clamp(max=MAX_PSNR_DB),
            self.perceptual.distance(image_N3HW, features),
        )

    @torch.no_grad()
    def error_map(self, image_N3hw: Tensor, target_N3hw: Tensor) -> Tensor:
        """Return where images differ from their targets, both in [-1, 1] and of one size: `[N, h, w]` (Eq. 3.1)."""
        return self.perceptual.map(image_N3hw, target_N3hw)
