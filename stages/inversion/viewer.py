"""Shows codes as images, and measures their difference from a photograph. It needs no prior and no optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes, masks_of, resize_masks
from stages.maps.reduction import fit_reduced, reduced_size
from stages.maps.region import Region, crop, fit, place, psnr_db

if TYPE_CHECKING:
    from stages.perceptual.distance import Features, Perceptual

MAX_PSNR_DB = 100.0
"""PSNR recorded for equal images, where it is infinite: neither means nor JSON can hold infinity."""


@dataclass(frozen=True)
class Measures:
    """The similarity of images and targets, over the region: `psnr_db [N]`, at most `MAX_PSNR_DB`, and `lpips [N]`."""

    psnr_db: Tensor
    lpips: Tensor


@dataclass(frozen=True)
class Photograph:
    """A photograph fitted for inversion, on the CPU: float32 in [-1, 1].

    The two images are the same object if the loss uses the region's size.
    """

    image_3HW: Tensor
    """Fills the region; measures are of it."""
    seen_3hw: Tensor
    """Input of the loss: at most as large as the objective's `side_px`."""
    key: str = ""
    label: int | None = None
    """Its class, if the run uses classes."""
    given: Tensor | None = None
    """The codes that it starts from, `[num_ws or 1, w_dim]` float32, if its start brings codes."""


@dataclass(frozen=True)
class Viewer:
    """A generator, a perceptual distance and the region of the generator's canvas that both use."""

    generator: Generator
    perceptual: Perceptual
    region: Region
    spaces: tuple[str, ...]  # most editable first, the generator's first among them

    @property
    def device(self) -> torch.device:
        """The device of the generator, where codes must be."""
        return next(self.generator.parameters()).device

    def fitted(
        self, pixels_HW3: NDArray[np.uint8], side_px: int, key: str = "", label: int | None = None
    ) -> Photograph:
        """Return a photograph `[H, W, 3]`, of any size, fitted to the region.

        Args:
            pixels_HW3: RGB.
            side_px: longest side of the loss's images.
            key: of its sample.
            label: its class.
        """
        image_3HW = fit(pixels_HW3, self.region)
        as_it_is = reduced_size(self.region.size, side_px) == self.region.size
        seen_3hw = image_3HW if as_it_is else fit_reduced(pixels_HW3, self.region, side_px)
        return Photograph(image_3HW, seen_3hw, key, label)

    def masks(self, assignment_NHW: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the masks of assignments to the region, at feature sizes, rounded to what is stored (float16).

        Nothing acts outside the region. Spaces that no image uses are omitted.
        """
        chosen_N1HW = torch.from_numpy(assignment_NHW)[:, None]
        canvas_NHW = place(chosen_N1HW, self.region, self.generator.resolution)[:, 0]
        masks = masks_of(canvas_NHW, self.spaces, self.generator.feature_shapes)
        return {space: mask.half().float().to(self.device) for space, mask in masks.items()}

    def everywhere(self, space: str) -> dict[str, Tensor]:
        """Return the mask with which a feature space acts in one image's whole region; none for the first space."""
        shape = self.generator.feature_shapes.get(space)
        if shape is None:
            return {}
        whole_11HW = place(torch.ones(1, 1, *self.region.size), self.region, self.generator.resolution)
        return {space: resize_masks(whole_11HW, shape[1:]).to(self.device)}

    @torch.no_grad()
    def picture(self, codes: Codes) -> Tensor:
        """Return the region of the images that codes form, `[N, 3, h, w]` clamped to [-1, 1]."""
        image = self.generator.synthesize(codes.w_plus, codes.deltas, codes.masks)
        return crop(image, self.region).clamp(-1, 1)

    @torch.no_grad()
    def measure(self, image_N3HW: Tensor, target_N3HW: Tensor) -> Measures:
        """Return the measures of images against their targets, both `[N, 3, h, w]` in [-1, 1]."""
        return self._measures(image_N3HW, target_N3HW, self.perceptual.features(target_N3HW))

    @torch.no_grad()
    def measure_with(self, image_N3HW: Tensor, target_13HW: Tensor, features: Features) -> Measures:
        """Return the measures of several images against one target, whose features have been computed."""
        count = len(image_N3HW)
        return self._measures(image_N3HW, target_13HW.expand(count, -1, -1, -1), features.repeated(count))

    def _measures(self, image_N3HW: Tensor, target_N3HW: Tensor, features: Features) -> Measures:
        psnr_N = psnr_db(image_N3HW, target_N3HW).clamp(max=MAX_PSNR_DB)
        return Measures(psnr_N, self.perceptual.distance(image_N3HW, features))

    @torch.no_grad()
    def error_map(self, image_N3hw: Tensor, target_N3hw: Tensor) -> Tensor:
        """Return the map of differences of images from targets, both in [-1, 1], of one size: `[N, h, w]` (Eq. 3.1)."""
        return self.perceptual.map(image_N3hw, target_N3hw)
