"""The codes that drive a generator: spaces, codes and masks (thesis Sec. 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

W_PLUS = "W+"
"""The extended latent space W+; the most editable space of a StyleGAN2."""

Z_PLUS = "Z+"
"""The latent space Z+, one code per block; the most editable space of a BigGAN-deep."""

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Codes:
    """The codes φ = {w+, Δf_k} of a batch of images, with the masks m_k where each Δf_k acts.

    `w_plus` is `[N, num_ws, w_dim]`: codes of the generator's first space, which for BigGAN-deep is `Z+`. `deltas` and
    `masks` are keyed by feature space and hold `[N, C, h, w]` and `[N, 1, h, w]` in [0, 1].
    """

    w_plus: Tensor
    deltas: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Codes:
        """Return the same codes on another device."""
        deltas = {space: delta.to(device) for space, delta in self.deltas.items()}
        return Codes(self.w_plus.to(device), deltas, {space: mask.to(device) for space, mask in self.masks.items()})


def feature_space(resolution: int) -> str:
    """Return the name of the feature space after the block of this resolution: 16 px is `F4`, 32 px `F6`.

    The number is the index of the block's last convolution, counted as in the thesis (Sec. 3.3).
    """
    return f"F{2 * (resolution.bit_length() - 1) - 4}"


def resize_masks(mask_N1HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks at a feature's size: bilinear with antialiasing, soft (thesis Sec. 3.3).

    Args:
        mask_N1HW: `[N, 1, H, W]` in [0, 1].
        size: `(h, w)` of the feature.
    """
    if mask_N1HW.shape[-2:] == size:
        return mask_N1HW
    return F.interpolate(mask_N1HW, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)


def masks_of(
    assignment_NHW: Tensor, spaces: Sequence[str], shapes: Mapping[str, tuple[int, int, int]]
) -> dict[str, Tensor]:
    """Return the mask of every feature space that an assignment uses, at that feature's size.

    Args:
        assignment_NHW: `[N, H, W]` integer index into `spaces`, on the generator's whole canvas.
        spaces: all spaces, most editable first; the first has no mask.
        shapes: `(C, h, w)` of each feature space.

    Returns:
        `[N, 1, h, w]` float32 masks by space; a space that no image uses is omitted.
    """
    masks = {}
    for index, space in enumerate(spaces):
        chosen = assignment_NHW == index
        if space in shapes and bool(chosen.any()):
            masks[space] = resize_masks(chosen[:, None].float(), shapes[space][1:])
    return masks


def zero_deltas(
    masks: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int, int]], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return Δf = 0 for every masked space, the start of every inversion (thesis Sec. 3.3): `[N, C, h, w]`."""
    return {space: torch.zeros(mask.shape[0], *shapes[space], device=device) for space, mask in masks.items()}
