"""Edited images of stored codes. The edits of a batch share its unedited pass, and are made one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from stages.editing.settings import EditOfCodes
from stages.maps.region import Region, crop


@dataclass(frozen=True)
class Picture:
    """The region of some images, `[N, 3, h, w]` clamped to [-1, 1], and which of them were finite, `[N]`."""

    image_N3HW: Tensor
    finite_N: Tensor


@dataclass(frozen=True)
class Editor:
    """A generator and the active region of its canvas."""

    generator: Generator
    region: Region
    published: bool = False  # the authors' formula: a zero edit then differs where masks are soft

    @property
    def device(self) -> torch.device:
        """The device of the generator."""
        return next(self.generator.parameters()).device

    def reconstruction(self, codes: Codes) -> Picture:
        """Return the images that codes form: edits by zero, to the bit."""
        return next(self.pictures(codes, ()))

    @torch.no_grad()
    def pictures(
        self, codes: Codes, edits: Sequence[EditOfCodes], classes: Sequence[int | None] = ()
    ) -> Iterator[Picture]:
        """Yield the images that codes form, then those of each edit (thesis Sec. 3.4).

        Args:
            codes: of N images, on any device.
            edits: on the generator's device.
            classes: class of each image, if an edit needs them.
        """
        device = self.device
        deltas = {space: delta.to(device) for space, delta in codes.deltas.items()}
        masks = {space: mask.to(device) for space, mask in codes.masks.items()}
        unedited = self.generator.unedited(codes.w_plus.to(device), deltas, masks)
        yield self._picture(unedited.image)
        for edit in edits:
            edited = self.generator.edited(unedited, edit.change_of(classes), published=self.published)
            yield self._picture(edited)

    def _picture(self, image_N3RR: Tensor) -> Picture:
        image_N3HW = crop(image_N3RR, self.region)
        return Picture(image_N3HW.clamp(-1, 1), image_N3HW.isfinite().flatten(1).all(1))
