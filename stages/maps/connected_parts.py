"""The connected parts of segments, so that two distant cars need not share a space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def connected_parts(labels_HW: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return `[H, W]` int32 from 0: a number per connected part of each label.

    Pixels that touch at an edge or corner are connected. Otherwise thin diagonals, such as wires and masts at the
    size of maps, would fall into parts of one pixel, and a mean over one pixel says little.
    """
    from skimage import measure

    _, index_HW = np.unique(labels_HW, return_inverse=True)
    parts_HW = measure.label(  # type: ignore[no-untyped-call]
        index_HW.reshape(labels_HW.shape), background=-1, connectivity=2
    )
    return np.asarray(parts_HW - 1, dtype=np.int32)
