"""Stored form of deltas and masks: only the support of each mask, in half precision (thesis Sec. 3.3).

Pixels outside a mask cannot change the image, so only the positions with m > 0 are kept of every Δf. For a space
`F4` the arrays are `F4.support` (`h × w` bits, packed), `F4.mask` (`[n]` float16), `F4.delta` (`[C, n]` float16) and
`F4.shape` (`C, h, w`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import Codes

Arrays = dict[str, NDArray[np.generic]]


def pack_codes(codes: Codes, index: int) -> Arrays:
    """Return the arrays that hold the deltas and masks of image `index` of a batch; unused spaces take no room."""
    arrays: Arrays = {}
    for space, delta_NChw in codes.deltas.items():
        mask_hw = codes.masks[space][index, 0]
        support_hw = mask_hw > 0
        if not bool(support_hw.any()):
            continue
        arrays[f"{space}.support"] = np.packbits(support_hw.cpu().numpy())
        arrays[f"{space}.mask"] = mask_hw[support_hw].half().cpu().numpy()
        arrays[f"{space}.delta"] = delta_NChw[index][:, support_hw].half().cpu().numpy()
        arrays[f"{space}.shape"] = np.asarray(delta_NChw.shape[1:], np.int32)
    return arrays


def unpack_codes(w_plus: NDArray[np.generic], arrays: Mapping[str, NDArray[np.generic]]) -> Codes:
    """Return the codes of one image (a batch of 1, float32) from its row's `w_plus [num_ws, w_dim]` and its arrays.

    Raises:
        ValueError: the arrays of a space do not fit together.
    """
    deltas: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name in arrays:
        space, _, part = name.partition(".")
        if part == "delta":
            deltas[space], masks[space] = _unpack_space(space, arrays)
    return Codes(torch.from_numpy(np.asarray(w_plus, np.float32))[None], deltas, masks)


def _unpack_space(space: str, arrays: Mapping[str, NDArray[np.generic]]) -> tuple[Tensor, Tensor]:
    channels, height, width = (int(n) for n in arrays[f"{space}.shape"])
    packed = arrays[f"{space}.support"].astype(np.uint8)
    support_hw = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
    values, mask = arrays[f"{space}.delta"], arrays[f"{space}.mask"]
    if values.shape != (channels, support_hw.sum()) or mask.shape != values.shape[1:]:
        raise ValueError(
            f"the arrays of {space} do not fit: {int(support_hw.sum())} positions in the support, "
            f"delta {list(values.shape)}, mask {list(mask.shape)}, {channels} channels"
        )
    delta_Chw = np.zeros((channels, height, width), np.float32)
    delta_Chw[:, support_hw] = values
    mask_hw = np.zeros((height, width), np.float32)
    mask_hw[support_hw] = mask
    return torch.from_numpy(delta_Chw)[None], torch.from_numpy(mask_hw)[None, None]


def stack_codes(codes: Sequence[Codes], shapes: Mapping[str, tuple[int, int, int]]) -> Codes:
    """Return the codes of several images as one batch; a space that an image does not use has a zero mask there."""
    zeros = codes[0].w_plus.new_zeros
    used = [space for space in shapes if any(space in one.deltas for one in codes)]
    return Codes(
        torch.cat([one.w_plus for one in codes]),
        {s: torch.cat([one.deltas.get(s, zeros(1, *shapes[s])) for one in codes]) for s in used},
        {s: torch.cat([one.masks.get(s, zeros(1, 1, *shapes[s][1:])) for one in codes]) for s in used},
    )
