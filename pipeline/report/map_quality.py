"""Is the map right? Predicted against achieved errors and against known occluders, summed up sample by sample.

All state has a fixed size, so that the number of samples is not limited.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from stages.maps.assignment import segment_means
from stages.maps.reduction import at_size
from stages.maps.truth import average_precision

CURVE_POINTS = 10
"""Points of a calibration curve, each the mean of about the same number of segments."""

MIN_PAIRS = 3
"""Fewer pairs have no meaningful correlation: any two lie on a line."""

_FINE_BINS = 4096
_FINEST = 2.0**-20
_ROUNDING = 1e-12  # of the mean square; a smaller spread is rounding in float64

Point = tuple[float, float, int]


@dataclass(frozen=True)
class HeldOut:
    """A sample that no segmenter was trained on: its prediction, and its inversion in each space.

    Segments have the region's size, which is larger than that of maps and occluder if maps are reduced.
    """

    predicted_LHW: NDArray[np.floating]
    achieved_LHW: NDArray[np.floating]
    labels_HW: NDArray[np.integer]  # the segments that spaces were assigned to
    occluded_HW: NDArray[np.bool_] | None  # None if the shard does not say


@dataclass(frozen=True)
class MapQuality:
    """The quality of invertibility maps, over held-out samples; None, and an empty curve, where it is unknown.

    Average precision is that of the first space's map against known occluders, mean over samples, like AUROC; chance
    is the share of occluded pixels. Correlation is Pearson's, of predicted with achieved error. Bias is the mean over
    segments of predicted minus achieved error. A point of the calibration curve is the mean predicted error of some
    segments, their mean achieved error, and how many they are; points ascend.
    """

    average_precision_error_map: float | None = None
    average_precision_predicted_map: float | None = None
    average_precision_chance: float | None = None
    correlation_per_pixel: dict[str, float | None] = field(default_factory=dict)
    correlation_per_segment: dict[str, float | None] = field(default_factory=dict)
    bias_per_segment: dict[str, float | None] = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)  # number of segments in the figures
    calibration: dict[str, list[Point]] = field(default_factory=dict)


def judge(samples: Iterable[HeldOut], spaces: Sequence[str]) -> MapQuality:
    """Return the quality of some samples' maps; each sample is used once and released."""
    pixels, segments = [Moments() for _ in spaces], [Moments() for _ in spaces]
    curves = [Calibration() for _ in spaces]
    found: list[tuple[float, float, float]] = []  # average precision of both maps, and chance
    for sample in samples:
        labels_HW = sample.labels_HW
        predicted_KL, achieved_KL = (
            segment_means(at_size(error_LHW, labels_HW.shape), labels_HW)[1]
            for error_LHW in (sample.predicted_LHW, sample.achieved_LHW)
        )
        for i in range(len(spaces)):
            pixels[i] += Moments.from_values(sample.predicted_LHW[i], sample.achieved_LHW[i])
            segments[i] += Moments.from_values(predicted_KL[:, i], achieved_KL[:, i])
            curves[i].add(predicted_KL[:, i], achieved_KL[:, i])
        of_error = average_precision(sample.achieved_LHW[0], sample.occluded_HW)
        of_predicted = average_precision(sample.predicted_LHW[0], sample.occluded_HW)
        if of_error is not None and of_predicted is not None and sample.occluded_HW is not None:
            found.append((of_error, of_predicted, float(sample.occluded_HW.mean())))
    of_error, of_predicted, chance = (fmean(values) for values in zip(*found, strict=True)) if found else (None,) * 3
    return MapQuality(
        average_precision_error_map=of_error,
        average_precision_predicted_map=of_predicted,
        average_precision_chance=chance,
        correlation_per_pixel={space: one.correlation for space, one in zip(spaces, pixels, strict=True)},
        correlation_per_segment={space: one.correlation for space, one in zip(spaces, segments, strict=True)},
        bias_per_segment={space: one.difference for space, one in zip(spaces, segments, strict=True)},
        segments={space: one.count for space, one in zip(spaces, segments, strict=True)},
        calibration={space: one.curve() for space, one in zip(spaces, curves, strict=True)},
    )


@dataclass(frozen=True)
class Moments:
    """Count, means and centred second moments of pairs; sums of parts are merged after Chan, Golub and LeVeque."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @classmethod
    def from_values(cls, x: NDArray[np.floating], y: NDArray[np.floating]) -> Moments:
        """Return the moments of two arrays of one shape, at least one pair."""
        x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
        mean_x, mean_y = float(x.mean()), float(y.mean())
        dx, dy = x - mean_x, y - mean_y
        return cls(x.size, mean_x, mean_y, float(dx @ dx), float(dy @ dy), float(dx @ dy))

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of the pairs of both."""
        count = self.count + other.count
        if count == 0:
            return self
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        part, weight = other.count / count, self.count * other.count / count
        return Moments(
            count,
            self.mean_x + part * dx,
            self.mean_y + part * dy,
            self.xx + other.xx + weight * dx * dx,
            self.yy + other.yy + weight * dy * dy,
            self.xy + other.xy + weight * dx * dy,
        )

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation; None for fewer than `MIN_PAIRS` pairs, and if either side does not vary."""
        if self.count < MIN_PAIRS:
            return None
        if self._constant(self.xx, self.mean_x) or self._constant(self.yy, self.mean_y):
            return None
        return max(-1.0, min(1.0, self.xy / math.sqrt(self.xx) / math.sqrt(self.yy)))

    @property
    def difference(self) -> float | None:
        """The mean of x minus y; None without pairs."""
        return self.mean_x - self.mean_y if self.count else None

    def _constant(self, square: float, mean: float) -> bool:
        return square <= _ROUNDING * self.count * mean * mean


class Calibration:
    """Predicted against achieved errors in fine bins of predicted error, which grow by halving their number."""

    def __init__(self) -> None:
        self.width = _FINEST  # always a power of two, so that the bins do not depend on the order of the pairs
        self.sums_3B = np.zeros((3, _FINE_BINS))  # of predicted and of achieved errors, and the count

    def add(self, predicted: NDArray[np.floating], achieved: NDArray[np.floating]) -> None:
        """Add some pairs; predicted errors are at least 0."""
        predicted, achieved = predicted.astype(np.float64), achieved.astype(np.float64)
        while predicted.max(initial=0.0) >= self.width * _FINE_BINS:
            halved = self.sums_3B.reshape(3, -1, 2).sum(axis=2)
            self.sums_3B = np.concatenate([halved, np.zeros_like(halved)], axis=1)
            self.width *= 2
        bins = (predicted / self.width).astype(np.intp)
        added = (predicted, achieved, np.ones_like(predicted))
        self.sums_3B += np.stack([np.bincount(bins, weights, _FINE_BINS) for weights in added])

    def curve(self, points: int = CURVE_POINTS) -> list[Point]:
        """Return up to `points` means of neighbouring pairs, of equal size; pairs of one bin stay together."""
        sums_3B = self.sums_3B[:, self.sums_3B[2] > 0]
        if sums_3B.size == 0:
            return []
        middles = np.cumsum(sums_3B[2]) - sums_3B[2] / 2
        group = (middles / sums_3B[2].sum() * points).astype(np.intp)
        predicted, achieved, count = (np.bincount(group, sums_B) for sums_B in sums_3B)
        return [
            (float(predicted[i] / count[i]), float(achieved[i] / count[i]), int(count[i])) for i in np.unique(group)
        ]
