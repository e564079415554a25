"""Means with bootstrapped intervals, and paired differences of two methods over the images that both have."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
Values = Mapping[Hashable, float]
"""A figure of each image, by the image's name."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: the same draws for the same number of images, whatever else is drawn."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Mean:
    """A mean over images, with the ends of its bootstrapped 95 % interval; None of fewer than two images."""

    value: float
    low: float | None
    high: float | None
    images: int

    def shown(self, digits: int, form: str = "") -> str:
        """Return the mean and its interval as text, as `27.41 [26.90, 27.95]`."""
        if self.low is None or self.high is None:
            return f"{self.value:{form}.{digits}f}"
        return f"{self.value:{form}.{digits}f} [{self.low:{form}.{digits}f}, {self.high:{form}.{digits}f}]"


def mean_of(values: Sequence[float], bootstrap: Bootstrap) -> Mean | None:
    """Return the mean of some figures, None without any; images are drawn with replacement, by percentiles."""
    if not values:
        return None
    if len(values) < 2:
        return Mean(values[0], None, None, 1)
    drawn = stats.bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=bootstrap.resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, min(bootstrap.resamples, 10_000_000 // len(values))),
        rng=np.random.default_rng(bootstrap.seed),
    )
    low, high = (float(end) for end in drawn.confidence_interval)
    return Mean(fmean(values), low, high, len(values))


def difference_of(one: Values, other: Values, bootstrap: Bootstrap) -> Mean | None:
    """Return the mean of the differences, image by image, over the images that have both figures; None without any."""
    return mean_of([one[name] - other[name] for name in one if name in other], bootstrap)
