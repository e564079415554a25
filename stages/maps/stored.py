"""The stored form of error maps and predicted maps: float16, rounded so that deflate halves them or better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEP = 2.0**-10
"""Stored errors are multiples of it: float16 holds these exactly below 2, with few different bits."""


def stored_maps(error_LHW: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return maps `[L, H, W]` as they are stored: float16, the nearest multiples of 1/1024.

    A value moves by at most 1/2048, from 2 on by what float16 loses, and so does the mean of a segment. Maps of which
    that would leave nothing but zeros are rounded to float16 only: maps that are zero everywhere are a defect
    (`RefineMaps`). Values that are not finite stay so.
    """
    with np.errstate(over="ignore"):  # as infinite, which readers report
        rounded_LHW = (np.rint(error_LHW / STEP) * STEP).astype(np.float16)
        return rounded_LHW if rounded_LHW.any() or not error_LHW.any() else error_LHW.astype(np.float16)
