"""The effect of other thresholds: the share of pixels per space, from committed maps and segments.

No image is inverted. Assigning spaces is a step function of the threshold (thesis 3.2), so these shares are exact for
the samples read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.receipts import ReceiptHead
from pipeline.data.reading import Reader, Recorded, no_members
from pipeline.data.units import Shard, Unit
from pipeline.errors import RunError
from pipeline.plan.plan import Plan
from pipeline.plan.steps import Steps
from stages.maps.assignment import segment_means
from stages.maps.reduction import at_size
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps

SAMPLES = 10_000
"""Number of samples read by default; a few bytes per segment are kept of each."""

SPREAD = 16  # minimum number of units to take samples from, if there are enough
GRID = 9  # thresholds tried per space
DIGITS = 3  # digits of a threshold, so that it can be copied


@dataclass(frozen=True)
class Shares:
    """A threshold, and the share of pixels that it gives to each space."""

    threshold: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Tuning:
    """The shares at every threshold of a grid, ascending; `threshold` is the configured one and is among them."""

    samples: int
    committed: int  # samples whose units have refined maps
    threshold: float
    grid: tuple[Shares, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the shares as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Segments:
    """The segments of some samples, each with its pixels and the thresholds at which it moves to more editable spaces.

    least_KS: `[K, L - 1]` float32; the last space takes the rest, whatever the threshold.
    """

    samples: int
    pixels_K: NDArray[np.int64]
    least_KS: NDArray[np.float32]

    @classmethod
    def from_maps(cls, maps: Iterable[tuple[NDArray[np.floating], NDArray[np.integer]]], spaces: int) -> Segments:
        """Return the segments of samples, given by predicted maps `[L, H, W]` and labels `[H, W]`."""
        pixels, least = [np.zeros(0, np.int64)], [np.zeros((0, spaces - 1), np.float32)]  # one more than samples
        for error_LHW, labels_HW in maps:
            _, mean_KL, segment_HW = segment_means(error_LHW, labels_HW)
            pixels.append(np.bincount(segment_HW.ravel()))
            least.append(np.minimum.accumulate(mean_KL, axis=1)[:, :-1])
        return cls(len(pixels) - 1, np.concatenate(pixels), np.concatenate(least))

    def shares(self, threshold: float) -> list[float]:
        """Return the share of pixels of each space, as assigned by `assign_spaces`; they sum to 1."""
        passes_KS = self.least_KS <= np.float32(threshold)
        within = [0, *(self.pixels_K @ passes_KS).tolist(), self.pixels_K.sum()]
        return [float(share) for share in np.diff(within) / self.pixels_K.sum()]

    def grid(self, count: int = GRID) -> list[float]:
        """Return thresholds, ascending: for each space but the last, `count` quantiles of what its segments need.

        Between two quantiles of a space, equal numbers of segments move to it. Rounded up, so that segments whose
        mean is such a threshold passes at the printed value.
        """
        if self.least_KS.size == 0:
            return []
        steps_QS = np.quantile(self.least_KS, np.linspace(0, 1, count), axis=0, method="inverted_cdf")
        return sorted({rounded_up(float(step)) for step in steps_QS.flat})

    def evenly_editable(self, count: int) -> list[float]:
        """Return up to `count` thresholds, ascending, at which the share of the first space is roughly evenly spaced.

        The first just gives it nothing (unless an error is 0), the last everything. Rounded as those of `grid`.
        """
        if self.least_KS.size == 0:
            return []
        order_K = np.argsort(self.least_KS[:, 0])
        within_K = np.cumsum(self.pixels_K[order_K])  # pixels in the first space if segments up to here pass
        wanted = np.ceil(np.linspace(0, within_K[-1], count)[1:])
        steps = self.least_KS[order_K[np.searchsorted(within_K, wanted)], 0].tolist()
        least = float(self.least_KS[order_K[0], 0])
        return sorted({rounded_up(step) for step in steps} | ({rounded_below(least)} if least > 0 else set()))


def rounded_up(value: float, digits: int = DIGITS) -> float:
    """Return the smallest number with this many significant digits that is not below; float32, as in comparisons."""
    if value <= 0:
        return 0.0
    decimals = digits - 1 - math.floor(math.log10(value))
    rounded = round(value, decimals)
    return rounded if np.float32(rounded) >= np.float32(value) else round(rounded + 10.0**-decimals, decimals)


def rounded_below(value: float, digits: int = DIGITS) -> float:
    """Return the number before `rounded_up` of a positive value, smaller by one step of its last digit."""
    decimals = digits - 1 - math.floor(math.log10(value))
    return round(rounded_up(value, digits) - 10.0**-decimals, decimals)


def tune(plan: Plan, samples: int = SAMPLES) -> Tuning:
    """Return what other thresholds would give to each space, from storage alone.

    Args:
        plan: of a run whose maps are refined, at whatever threshold.
        samples: maximum number of samples, spread over the units.

    Raises:
        RunError: no unit has refined maps.
    """
    steps = steps_of(plan)
    refine = steps[RefineMaps]
    done = plan.ledger.units(refine.stage.name, refine.fingerprint)
    shards = plan.inventories()
    units = [unit for unit in plan.units(shards, plan.everything) if unit.name in done]
    spaces, threshold = plan.spaces, plan.config.refine_maps.threshold
    chosen, of_each = spread(units, samples)
    reader = reader_of(plan, shards)
    maps = (one for unit in chosen for one in itertools.islice(maps_of(reader, steps, unit), of_each))
    segments = Segments.from_maps(itertools.islice(maps, samples), len(spaces))
    if not segments.samples:
        raise nothing_refined(plan)
    grid = sorted({*segments.grid(), threshold})
    return Tuning(
        samples=segments.samples,
        committed=sum(unit.stop - unit.first for unit in units),
        threshold=threshold,
        grid=tuple(Shares(t, dict(zip(spaces, segments.shares(t), strict=True))) for t in grid),
    )


def spread(units: Sequence[Unit], samples: int) -> tuple[list[Unit], int]:
    """Return units spread over all, and how many samples of each add up to the requested number."""
    if not units:
        return [], 0
    largest = max(unit.stop - unit.first for unit in units)
    count = min(len(units), samples, max(SPREAD, math.ceil(samples / largest)))
    chosen = np.linspace(0, len(units) - 1, count).astype(int).tolist()
    return [units[i] for i in chosen], math.ceil(samples / count)


def steps_of(plan: Plan) -> Steps:
    """Return the steps after a run's segmenter; raise `RunError` if none is trained yet."""
    trained = plan.ledger.receipt(plan.train_segmenter())
    if trained is None:
        raise RunError("there is nothing to tune: no segmenter is trained yet; `invertmill run` comes first")
    return plan.map_steps(trained)


def nothing_refined(plan: Plan) -> RunError:
    """Return the error of a run without refined maps."""
    return RunError(
        f"there is nothing to tune: no maps are refined with threshold {plan.config.refine_maps.threshold:g} and this "
        "segmentation; `invertmill run` comes first, or give the settings of a run that was made"
    )


def reader_of(plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> Reader:
    """Return a reader of a run's units; samples that are no longer in the store are omitted."""
    inventories = {shard: receipt.unit for shard, receipt in shards.items()}
    return Reader(plan.ledger, plan.sources, inventories, plan.everything, tolerant=True)


def maps_of(
    reader: Reader, steps: Steps, unit: Unit, keys: Collection[str] | None = None
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.integer]]]:
    """Yield predicted maps `[L, H, W]`, at the size of the segments `[H, W]`, and these, for some keys or all."""
    predict, refine = steps[PredictMaps], steps[RefineMaps]
    records = [
        Recorded(predict.stage.name, predict.fingerprint, rows=False, arrays={"error_LHW"}),
        Recorded(refine.stage.name, refine.fingerprint, rows=False, arrays={"labels_HW"}),
    ]
    listed = None if keys is None else reader.chosen(unit, keys)
    for _, sample in reader.read(unit, listed, records, no_members):
        if isinstance(sample, str):
            continue
        labels_HW = sample.records[refine.stage.name].arrays["labels_HW"].astype(np.int32)
        error_LHW = sample.records[predict.stage.name].arrays["error_LHW"].astype(np.float32)
        yield at_size(error_LHW, labels_HW.shape), labels_HW
