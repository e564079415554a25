"""Which space each segment is inverted in (thesis 3.1 end, 3.2)."""

import numpy as np
from numpy.typing import NDArray

MAX_SPACES = 256  # an assignment is uint8


def assign_spaces(
    error_LHW: NDArray[np.floating], labels_HW: NDArray[np.integer], threshold: float
) -> NDArray[np.uint8]:
    """Return `[H, W]` uint8: per pixel, the index of the space that its segment is inverted in.

    A segment gets the most editable space (the lowest index) whose mean predicted error over the segment is
    at most `threshold`; where no space passes, the last one. Ties pass. Means and threshold are compared in
    float32, the precision of the maps, so that a threshold read off a printed mean passes.

    error_LHW: `[L, H, W]` floating, predicted error of each space, most editable space first; low is good.
    labels_HW: `[H, W]` any integers; equal labels are one segment, whether they touch or not.
    threshold: tau, at least 0; `inf` gives everything to the most editable space.

    Raises ValueError for shapes or types other than these, values that are not finite, a negative threshold.
    Source: thesis 3.2 as METHOD rows 12 and 13 read it (tau bounds the *error*).
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is a largest mean error and cannot be {threshold}: give a number >= 0")
    _, mean_KL, segment_HW = segment_means(error_LHW, labels_HW)
    passes_KL = mean_KL <= np.float32(threshold)
    last = mean_KL.shape[1] - 1
    space_K = np.where(passes_KL.any(axis=1), passes_KL.argmax(axis=1), last)
    assignment_HW: NDArray[np.uint8] = space_K.astype(np.uint8)[segment_HW]
    return assignment_HW


def segment_means(
    error_LHW: NDArray[np.floating], labels_HW: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.float32], NDArray[np.intp]]:
    """Return the labels present, the mean error of each space over each, and where each label is.

    Returns labels `[K]`, ascending, of the type given; means `[K, L]` float32, summed in float64 and
    rounded once, so that they do not depend on the order of the pixels; and `[H, W]` index into the K labels.

    error_LHW and labels_HW as in `assign_spaces`, which also lists the ValueErrors.
    """
    _check(error_LHW, labels_HW)
    labels_K, segment_HW = np.unique(labels_HW, return_inverse=True)
    segment_HW = segment_HW.reshape(labels_HW.shape)  # numpy 2.0 returned it flat
    segment_P = segment_HW.ravel()
    pixels_K = np.bincount(segment_P)
    sums_LK = [np.bincount(segment_P, weights=error_HW.ravel()) for error_HW in error_LHW]
    mean_KL = (np.stack(sums_LK, axis=1) / pixels_K[:, None]).astype(np.float32)
    return labels_K, mean_KL, segment_HW


def _check(error_LHW: NDArray[np.floating], labels_HW: NDArray[np.integer]) -> None:
    if error_LHW.ndim != 3 or error_LHW.size == 0 or len(error_LHW) > MAX_SPACES:
        raise ValueError(
            f"error maps must be [L, H, W] with 1 to {MAX_SPACES} spaces and at least one pixel, "
            f"got shape {list(error_LHW.shape)}: stack one map per space, most editable first"
        )
    if labels_HW.shape != error_LHW.shape[1:]:
        raise ValueError(
            f"labels must have the size of the error maps, {list(error_LHW.shape[1:])}, got shape "
            f"{list(labels_HW.shape)}: fit the segmentation to the region of the maps"
        )
    if not np.issubdtype(error_LHW.dtype, np.floating) or not np.issubdtype(labels_HW.dtype, np.integer):
        raise ValueError(
            f"expected floating error maps and integer labels, got {error_LHW.dtype} and {labels_HW.dtype}: "
            "convert them first (stored fixed-point maps to float32, masks to uint8)"
        )
    if not np.isfinite(error_LHW).all():
        spaces = np.flatnonzero(~np.isfinite(error_LHW).all(axis=(1, 2))).tolist()
        raise ValueError(
            f"error maps must be finite, got NaN or infinity in the maps of spaces {spaces}: "
            "a mean over such a segment is meaningless; predict the maps of this sample again"
        )
