"""Known occluders: where a shard says which pixels the generator cannot know, a map can be held to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.region import Region, fit_labels
from stages.stage import Sample, decode_image


def known_occluder(sample: Sample, member: str | None, region: Region) -> NDArray[np.bool_] | None:
    """Return which pixels of the region are occluded, `[h, w]`, or None where the shard does not say.

    Raises:
        BadSampleError: the member does not decode.
    """
    if member is None or member not in sample.members:
        return None
    mask_HW3 = decode_image(sample.members[member], f"{sample.key}.{member}")
    return fit_labels(mask_HW3[..., 0], region) > 127


def auroc(error_HW: NDArray[np.floating], occluded_HW: NDArray[np.bool_] | None) -> float | None:
    """Return how well an error map ranks occluded above other pixels, 0.5 is chance; None without both kinds."""
    if occluded_HW is None or occluded_HW.all() or not occluded_HW.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(occluded_HW.ravel(), error_HW.ravel()))
