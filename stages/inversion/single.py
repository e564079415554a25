"""Stored codes of one image that was inverted in every single space: w_plus of each space, and its packed delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from generators.latents import Codes
from stages.inversion.packing import Arrays, pack_codes, unpack_codes

W_PLUS = "w_plus_LNw"


def pack_single(codes: Sequence[Codes]) -> Arrays:
    """Return the arrays that hold one image's codes in every space, most editable first.

    `w_plus_LNw` is float16 `[L, num_ws, w_dim]`. The delta of a feature space has the names of `packing`, which differ
    from space to space; they share one `version`.
    """
    arrays: Arrays = {W_PLUS: np.stack([of_space.w_plus[0].half().cpu().numpy() for of_space in codes])}
    for of_space in codes:
        arrays |= pack_codes(of_space, 0)
    del arrays["w_plus"]  # of one space
    return arrays


def unpack_single(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Codes]:
    """Return one image's codes by space (a batch of 1, float32), from the arrays of its error maps; {} if not kept."""
    if W_PLUS not in arrays:
        return {}
    of_all = {name: array for name, array in arrays.items() if name == "version"}
    return {
        space: unpack_codes(
            w_plus, of_all | {name: array for name, array in arrays.items() if name.startswith(f"{space}.")}
        )
        for space, w_plus in zip(arrays["spaces"].tolist(), arrays[W_PLUS], strict=True)
    }
