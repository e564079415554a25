"""Edited images of stored codes. The edits of a batch share its unedited pass, and are made one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators.generator import Generator, Unedited
from generators.latents import Codes
from stages.editing.settings import EditOfCodes
from stages.maps.region import Region, crop

TOGETHER = 6
"""Edits of one image that are computed at once: 18 of them then take 0.43 of the time at 64 px (CPU, one thread)."""


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
        unedited = self._unedited(codes)
        yield self._picture(unedited.image)
        for edit in edits:
            edited = self.generator.edited(unedited, edit.change_of(classes), published=self.published)
            yield self._picture(edited)

    @torch.no_grad()
    def pictures_of_one(
        self, codes: Codes, edits: Sequence[EditOfCodes], label: int | None = None
    ) -> tuple[Picture, Iterator[Picture]]:
        """Return the image that the codes of one image form, and those of its edits, each a batch of 1.

        Several edits are computed at once: they equal those of `pictures` up to rounding.

        Args:
            codes: of one image, on any device.
            edits: on the generator's device.
            label: its class, if an edit needs it.
        """
        unedited = self._unedited(codes)
        changes = [edit.change_of([label]).expand_as(unedited.w) for edit in edits]
        return self._picture(unedited.image), self._edited_together(unedited, changes)

    @torch.no_grad()
    def _edited_together(self, unedited: Unedited, changes: Sequence[Tensor]) -> Iterator[Picture]:
        for first in range(0, len(changes), TOGETHER):
            some = torch.cat(list(changes[first : first + TOGETHER]))
            edited = self.generator.edited(unedited.repeated(len(some)), some, published=self.published)
            yield from map(self._picture, edited.split(1))

    def _unedited(self, codes: Codes) -> Unedited:
        device = self.device
        deltas = {space: delta.to(device) for space, delta in codes.deltas.items()}
        masks = {space: mask.to(device) for space, mask in codes.masks.items()}
        return self.generator.unedited(codes.w_plus.to(device), deltas, masks)

    def _picture(self, image_N3RR: Tensor) -> Picture:
        image_N3HW = crop(image_N3RR, self.region)
        return Picture(image_N3HW.clamp(-1, 1), image_N3HW.isfinite().flatten(1).all(1))
