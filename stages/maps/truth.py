"""Known occluders: where a shard says which pixels the generator cannot know, a map can be judged by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.base.stage import Sample
from stages.images.decoding import decode_mask
from stages.images.orientation import Geometry, upright_like
from stages.maps.reduction import at_size, reduced_size
from stages.maps.region import Region, fit_labels


def known_occluder(
    sample: Sample, member: str | None, picture: Geometry, region: Region, side_px: int | None = None
) -> NDArray[np.bool_] | None:
    """Return which pixels of the region are occluded, `[h, w]`, or None if the shard does not say.

    Args:
        sample: holds the mask, white where occluded.
        member: the name of that member.
        picture: geometry of the sample's picture, which the mask shares.
        region: gives size and fit.
        side_px: the region's longer side is reduced to this, as for maps; the nearest pixel decides.

    Raises:
        BadSampleError: the member does not decode, or is of another size than the picture.
    """
    if member is None or member not in sample.members:
        return None
    name = f"{sample.key}.{member}"
    mask_HW, tag = decode_mask(sample.members[member], name)
    occluded_HW = fit_labels(upright_like(mask_HW, tag, picture, name), region) > 127
    return at_size(occluded_HW, reduced_size(region.size, side_px))


def auroc(error_HW: NDArray[np.floating], occluded_HW: NDArray[np.bool_] | None) -> float | None:
    """Return how well an error map ranks occluded above other pixels, 0.5 by chance; None without both kinds.

    It is the share of pairs, one pixel of each kind, in which the occluded one has the larger error; ties count half.
    """
    if occluded_HW is None or not _has_both(occluded_HW):
        return None
    occluded_P, other_Q = error_HW[occluded_HW], np.sort(error_HW[~occluded_HW])
    below_P, upto_P = (np.searchsorted(other_Q, occluded_P, side) for side in ("left", "right"))
    return int((below_P + upto_P).sum()) / (2 * len(occluded_P) * len(other_Q))


def average_precision(error_HW: NDArray[np.floating], occluded_HW: NDArray[np.bool_] | None) -> float | None:
    """Return the precision of an error map at finding occluded pixels, mean over recall; None without both kinds.

    Chance is the share of occluded pixels: unlike AUROC, it shows how many of the brightest pixels are not occluded.
    """
    if occluded_HW is None or not _has_both(occluded_HW):
        return None
    error_P, occluded_P = error_HW.ravel(), occluded_HW.ravel()
    order_P = np.argsort(error_P)[::-1]
    last_E = np.append(np.flatnonzero(np.diff(error_P[order_P])), len(order_P) - 1)  # the last pixel of each error
    hits_E = np.cumsum(occluded_P[order_P])[last_E]
    precision_E, recall_E = hits_E / (last_E + 1), hits_E / hits_E[-1]
    # summed from the largest recall, as scikit-learn does, so that the last bit is the same
    return float((-np.diff(recall_E[::-1], append=0) * precision_E[::-1]).sum())


def _has_both(occluded_HW: NDArray[np.bool_]) -> bool:
    return bool(occluded_HW.any() and not occluded_HW.all())
