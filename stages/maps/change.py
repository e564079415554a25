"""How much an edit changes an image inside and outside the region of each space."""

from __future__ import annotations

import torch
from torch import Tensor


# mean of |x' − x| over channels and pixels, images in [0, 1]
def change_by_space(
    edited_N3HW: Tensor, image_N3HW: Tensor, assignment_NHW: Tensor, spaces: int
) -> tuple[Tensor, Tensor]:
    """Return the mean absolute change inside and outside each space's region: two `[N, L]` float32.

    NaN where there are no such pixels: inside a space that an image does not use, outside one that fills it.

    Args:
        edited_N3HW: `[N, 3, H, W]` in [-1, 1]; compared in [0, 1].
        image_N3HW: the same images before the edit.
        assignment_NHW: `[N, H, W]` integer index of each pixel's space.
        spaces: their number, L.
    """
    change_NP = ((edited_N3HW - image_N3HW).abs().mean(1) / 2).flatten(1).double()
    space_NP = assignment_NHW.flatten(1)
    inside, outside = [], []
    for index in range(spaces):  # one after the other: memory holds the masks of one
        inside_NP = space_NP == index
        inside.append(_mean(change_NP, inside_NP))
        outside.append(_mean(change_NP, ~inside_NP))
    return torch.stack(inside, 1).float(), torch.stack(outside, 1).float()


def _mean(change_NP: Tensor, mask_NP: Tensor) -> Tensor:
    return (change_NP * mask_NP).sum(1) / mask_NP.sum(1)
