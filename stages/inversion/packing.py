"""Stored form of codes: only the support of each mask, as whole multiples of one step per space (thesis Sec. 3.3).

Pixels outside a mask cannot change the image, so only the positions with m > 0 are kept of every Δf. Version 2 holds
`version`, `w_plus` and, for a space `F4`, `F4.shape` (`C, h, w`), `F4.support` (`h × w` bits, packed), `F4.mask` (`[n]`
uint8, m × 255), `F4.codes` (`[C, n]` int8, Δf / step) and `F4.step` (float32). Where no step is fine enough, `F4.mask`
and `F4.codes` are float16 and the step is 1. Version 3 adds `F4.high` (`[C, n]` int8) where int8 does not hold the
codes: Δf / step is then codes + 256 × high. Such codes were int16 in version 2. Version 1 holds `F4.mask` and
`F4.delta` in float16, and neither `version` nor `w_plus`. `docs/bundle-format.md` is the whole description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import Codes
from stages.base.errors import StageError

Arrays = dict[str, NDArray[np.generic]]
AnyArrays = Mapping[str, NDArray[np.generic]]

VERSION = 2
WITH_HIGH = 3
"""The version of codes of which a space has `high`; earlier readers would take them for codes of int8."""
LARGEST_CODE = 127 + 256 * 127
FULL_MASK = 255
"""The stored value of a mask that is 1."""
_PARTS = frozenset({"support", "mask", "codes", "high", "delta", "step"})
FORMATS = ("int8", "int16", "float16")
"""Types of stored codes, the smallest first; int16 is stored in two parts of int8."""


class CodesError(StageError, ValueError):
    """Stored codes cannot be read: their version is unknown, or their parts are missing or do not fit together."""


def pack_codes(codes: Codes, index: int, steps: Mapping[str, float] | None = None) -> Arrays:
    """Return the arrays that hold the codes of image `index` of a batch; unused spaces take no room.

    Args:
        codes: of a batch.
        index: of the image.
        steps: by space; deltas become whole multiples of them, masks multiples of 1/255. None keeps both in float16.
    """
    arrays: Arrays = {
        "version": np.asarray(VERSION, np.uint8),
        "w_plus": codes.w_plus[index].half().cpu().numpy(),
    }
    for space, delta_NChw in codes.deltas.items():
        mask_hw = stored_mask(codes.masks[space][index, 0], rounded=steps is not None)
        support_hw = mask_hw > 0
        if not bool(support_hw.any()):
            continue
        step = None if steps is None else steps[space]
        values_Cn = on_support(delta_NChw[index], support_hw)
        arrays[f"{space}.shape"] = np.asarray(delta_NChw.shape[1:], np.int32)
        arrays[f"{space}.support"] = np.packbits(support_hw.cpu().numpy())
        arrays[f"{space}.mask"] = mask_hw[support_hw].cpu().numpy()
        parts = {"codes": values_Cn.half().cpu().numpy()} if step is None else _whole(values_Cn / step)
        arrays |= {f"{space}.{part}": values for part, values in parts.items()}
        arrays[f"{space}.step"] = np.asarray(1.0 if step is None else step, np.float32)
    if format_of(arrays) == "int16":
        arrays["version"] = np.asarray(WITH_HIGH, np.uint8)
    return arrays


def stored_mask(mask_hw: Tensor, *, rounded: bool) -> Tensor:
    """Return a mask as it is stored: uint8 of m × 255 if it is rounded, otherwise float16."""
    return (mask_hw * FULL_MASK).round().to(torch.uint8) if rounded else mask_hw.half()


def on_support(delta_Chw: Tensor, support_hw: Tensor) -> Tensor:
    """Return the values of a delta at the positions of a support, `[C, n]`."""
    return delta_Chw.flatten(1)[:, support_hw.flatten().nonzero()[:, 0]]


def _whole(quotient_Cn: Tensor) -> Arrays:
    """Return whole numbers as `codes`, with `high` where int8 does not hold them; raise `CodesError` beyond both.

    Deflate stores the halves of a number better apart: the high one is nearly always zero.
    """
    rounded_Cn = quotient_Cn.round()
    largest = float(rounded_Cn.abs().max())
    if largest <= torch.iinfo(torch.int8).max:
        return {"codes": rounded_Cn.to(torch.int8).cpu().numpy()}
    if largest > LARGEST_CODE:
        raise CodesError(f"codes of up to {largest:g} steps do not fit two bytes: choose larger steps, or none")
    whole_Cn = rounded_Cn.to(torch.int32).cpu().numpy()
    low_Cn = whole_Cn.astype(np.int8)  # the lower byte, with its sign
    return {"codes": low_Cn, "high": ((whole_Cn - low_Cn) >> 8).astype(np.int8)}


def format_of(arrays: AnyArrays) -> str:
    """Return the largest type that the codes of an image need; the smallest there is if there are none."""
    used = {str(array.dtype) for name, array in arrays.items() if name.endswith((".codes", ".delta"))}
    used |= {"int16" for name in arrays if name.endswith(".high")}
    return next((kind for kind in reversed(FORMATS) if kind in used), FORMATS[0])


def version_of(arrays: AnyArrays) -> int:
    """Return the version of an image's arrays; raise `CodesError` if it is unknown."""
    version = int(arrays["version"]) if "version" in arrays else 1
    if version not in (1, VERSION, WITH_HIGH):
        raise CodesError(f"the codes have version {version}, expected 1 to {WITH_HIGH}: install a newer invertmill")
    return version


def spaces_of(arrays: AnyArrays) -> list[str]:
    """Return the feature spaces of which an image's arrays hold some part."""
    parts = (name.rpartition(".") for name in arrays)
    return list(dict.fromkeys(space for space, _, part in parts if part in _PARTS))


def unpack_codes(w_plus: NDArray[np.generic] | None, arrays: AnyArrays, device: torch.device | str = "cpu") -> Codes:
    """Return the codes of one image: a batch of 1, as `unpack_batch`."""
    return unpack_batch([(w_plus, arrays)], device)


def unpack_batch(
    images: Sequence[tuple[NDArray[np.generic] | None, AnyArrays]], device: torch.device | str = "cpu"
) -> Codes:
    """Return the codes of some images of one generator as a batch, float32; a mask is zero where a space is unused.

    Args:
        images: of each, `[num_ws, w_dim]` of its row, or None for the copy in its arrays, which version 1 lacks; and
            the arrays of its npz, of which others than those of codes are ignored.
        device: where the codes are made; only what is stored is copied there.

    Raises:
        CodesError: a version is unknown, or the arrays of a space are missing or do not fit together.
    """
    for _, arrays in images:
        version_of(arrays)
    w_plus = [_part(arrays, "w_plus") if row is None else row for row, arrays in images]
    stored = [{space: _Stored.from_arrays(space, arrays) for space in spaces_of(arrays)} for _, arrays in images]
    shapes = {space: part.shape for of_image in stored for space, part in of_image.items()}
    count = len(images)
    deltas = {s: torch.zeros(count, c, height * width, device=device) for s, (c, height, width) in shapes.items()}
    masks = {s: torch.zeros(count, height * width, device=device) for s, (_, height, width) in shapes.items()}
    for i, of_image in enumerate(stored):
        for space, part in of_image.items():
            part.unpack_into(deltas[space][i], masks[space][i])
    w_NLd = torch.from_numpy(np.stack([np.asarray(w, np.float32) for w in w_plus])).to(device)
    return Codes(
        w_NLd,
        {space: delta.view(count, *shapes[space]) for space, delta in deltas.items()},
        {space: mask.view(count, 1, *shapes[space][1:]) for space, mask in masks.items()},
    )


def check_codes(arrays: AnyArrays) -> None:
    """Raise `CodesError` as `unpack_codes`, which makes the deltas; this does not."""
    if version_of(arrays) > 1:
        _part(arrays, "w_plus")
    for space in spaces_of(arrays):
        _Stored.from_arrays(space, arrays)


@dataclass(frozen=True, eq=False)
class _Stored:
    """The stored arrays of one space, checked."""

    shape: tuple[int, int, int]
    places_n: NDArray[np.intp]  # of the support, in a flat plane
    values_Cn: NDArray[np.generic]
    mask_n: NDArray[np.generic]
    step: float

    @classmethod
    def from_arrays(cls, space: str, arrays: AnyArrays) -> _Stored:
        earlier = version_of(arrays) == 1
        values_Cn = _part(arrays, f"{space}.{'delta' if earlier else 'codes'}")
        if (high_Cn := arrays.get(f"{space}.high")) is not None and version_of(arrays) == WITH_HIGH:
            if high_Cn.shape != values_Cn.shape:
                shapes = f"codes {list(values_Cn.shape)}, high {list(high_Cn.shape)}"
                raise CodesError(f"the arrays of {space} do not fit: {shapes}")
            values_Cn = values_Cn.astype(np.int16) + (high_Cn.astype(np.int16) << 8)
        step = 1.0 if earlier else float(np.float32(_part(arrays, f"{space}.step")))
        channels, height, width = (int(n) for n in _part(arrays, f"{space}.shape"))
        bits, mask_n = _part(arrays, f"{space}.support").astype(np.uint8), _part(arrays, f"{space}.mask")
        places_n = np.flatnonzero(np.unpackbits(bits, count=height * width))
        whole = bits.size == -(-height * width // 8)
        if not whole or values_Cn.shape != (channels, len(places_n)) or mask_n.shape != places_n.shape:
            raise CodesError(
                f"the arrays of {space} do not fit: {len(places_n)} positions in the support of {height} x {width}, "
                f"values {list(values_Cn.shape)}, mask {list(mask_n.shape)}, {channels} channels"
            )
        return cls((channels, height, width), places_n, values_Cn, mask_n, step)

    def unpack_into(self, delta_Cp: Tensor, mask_p: Tensor) -> None:
        """Write delta and mask at the positions of the support."""
        device = delta_Cp.device
        places = torch.from_numpy(self.places_n).to(device)
        delta_Cp.index_copy_(1, places, torch.from_numpy(np.asarray(self.values_Cn)).to(device).float() * self.step)
        full = FULL_MASK if self.mask_n.dtype == np.uint8 else 1
        mask_p.index_copy_(0, places, torch.from_numpy(np.asarray(self.mask_n)).to(device).float() / full)


def _part(arrays: AnyArrays, name: str) -> NDArray[np.generic]:
    if name not in arrays:
        raise CodesError(f"the codes lack {name!r}; they have {', '.join(sorted(arrays))}")
    return arrays[name]


def stack_codes(codes: Sequence[Codes], shapes: Mapping[str, tuple[int, int, int]]) -> Codes:
    """Return the codes of several images as one batch; a space that an image does not use has a zero mask there."""
    zeros = codes[0].w_plus.new_zeros
    used = [space for space in shapes if any(space in one.deltas for one in codes)]
    return Codes(
        torch.cat([one.w_plus for one in codes]),
        {s: torch.cat([one.deltas.get(s, zeros(1, *shapes[s])) for one in codes]) for s in used},
        {s: torch.cat([one.masks.get(s, zeros(1, 1, *shapes[s][1:])) for one in codes]) for s in used},
    )
