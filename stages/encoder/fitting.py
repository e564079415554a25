"""What the encoder is shown, and what its codes are compared with (thesis Sec. 3.3, Eq. 3.5 to 3.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.latents import Codes, masks_of
from stages.maps.region import Region, place

Shapes = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class Known:
    """Codes that an earlier inversion found for some images of a batch.

    The codes are those of the whole batch, arbitrary where `known_N` is 0; masks are where their deltas act.
    """

    codes: Codes
    known_N: Tensor


def shown(
    image_N3HW: Tensor, assignment_NHW: Tensor, spaces: int, region: Region, resolution: int
) -> tuple[Tensor, Tensor]:
    """Return the canvas `[N, 3, R, R]` and its map `[N, L, R, R]` as encoders see them, zeros outside the region.

    Args:
        image_N3HW: the region, in [-1, 1].
        assignment_NHW: uint8 index into the spaces.
        spaces: number of spaces L.
        region: of the canvas.
        resolution: side R of the canvas.
    """
    map_NLHW = F.one_hot(assignment_NHW.long(), spaces).movedim(-1, 1).to(image_N3HW.dtype)
    return place(image_N3HW, region, resolution), place(map_NLHW, region, resolution)


def masked(codes: Codes, canvas_NHW: Tensor, spaces: Sequence[str], shapes: Shapes) -> Codes:
    """Return codes in float32 with the masks of their assignments, for all feature spaces (thesis Eq. 3.4).

    A space that an image does not use has a zero mask and a zero delta there. The encoder of a space that no image
    uses thus gets gradients of zero, not none, as data-parallel training needs.

    Args:
        codes: of the encoder.
        canvas_NHW: assignments on the generator's whole canvas.
        spaces: most editable first.
        shapes: `(C, h, w)` of each feature space.
    """
    found = masks_of(canvas_NHW, spaces, shapes)
    masks = {s: found.get(s, d.new_zeros(len(d), 1, *d.shape[2:])).float() for s, d in codes.deltas.items()}
    used = {space: mask.amax(dim=(1, 2, 3), keepdim=True) > 0 for space, mask in masks.items()}
    deltas = {space: delta.float() * used[space] for space, delta in codes.deltas.items()}
    return Codes(codes.w_plus.float(), deltas, masks)


def codes_term(codes: Codes, known: Known) -> Tensor:
    """Return the mean squared difference of each image's codes from known ones, `[N]`; 0 for images without any.

    Deltas count where the masks of both act, since nothing else changes a picture; w_plus counts as a space.
    """
    terms_N = (codes.w_plus - known.codes.w_plus).square().mean(dim=(1, 2))
    for space, delta_NChw in codes.deltas.items():
        if space in known.codes.deltas and space in codes.masks:
            both_N1hw = torch.minimum(codes.masks[space], known.codes.masks[space])
            square_NChw = (delta_NChw - known.codes.deltas[space]).square() * both_N1hw
            terms_N = terms_N + square_NChw.mean(dim=(1, 2, 3))
    return terms_N * known.known_N
