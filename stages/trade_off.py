"""The cost of editability: images inverted at several thresholds, as `invert` would with each of them.

Every threshold has the start and the steps of `invert` (equal starts), so that its point of the curve is the result
that a run would have with it. With `warm_share`, a threshold continues from the codes of the next larger one instead,
in a share of the steps: cheaper, but the points are then those of different starts, and the knee with them. Such a
sweep goes from the largest threshold to the smallest, so that segments only ever leave a space for one that is less
editable. The new delta of a segment is zero at first, so the image is unchanged, and inverting continues from there.
The other way, a segment that returns to W+ loses the delta with which w_plus was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from threading import Lock
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from generators.latents import Codes, zero_deltas
from stages.base.batched_worker import batched_worker
from stages.base.stage import Record, Rejected, Sample, Value, Worker
from stages.engine.batch import Item
from stages.engine.engine import Engine
from stages.engine.result import Inversion
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.inversion.packing import stack_codes
from stages.inversion.rounding import Packing, pack_within
from stages.inversion.stage import InvertingStage
from stages.inversion.viewer import Photograph
from stages.maps.assignment import assign_spaces
from stages.maps.reduction import at_size

PREDICTED, REFINED = "predict_maps", "refine_maps"  # stages whose records it reads
WARM_RATE = 0.5
WARM_RAMP_UP = 0.3


def warm_schedule(schedule: Schedule, share: float) -> Schedule:
    """Return the schedule of inversions that start from their neighbour's codes: a share of the steps of a whole one.

    It is gentler, since Adam's first steps are as long as the rate whatever the gradient, and would lose the
    neighbour's result: half the rate, growing over the first three tenths of the steps.
    """
    steps, rate = max(1, round(share * schedule.steps)), WARM_RATE * schedule.learning_rate
    return schedule.model_copy(update={"steps": steps, "learning_rate": rate, "ramp_up": WARM_RAMP_UP})


@dataclass(frozen=True)
class Mapped:
    """The inputs of an assignment: predicted error `[L, H, W]`, most editable space first, and segments `[H, W]`."""

    error_LHW: NDArray[np.floating]
    labels_HW: NDArray[np.integer]


@dataclass(frozen=True)
class Inverted:
    """One image at one threshold; the same object again if a threshold gives the same assignment as the one before.

    `share_L` is the share of pixels of each space, `steps` the number taken from its start, and `codes` are of this
    image alone, with the deltas that act in it. PSNR and LPIPS are of the codes as `invert` would store them.
    """

    assignment_HW: NDArray[np.uint8]
    codes: Codes
    psnr_db: float
    lpips: float
    steps: int
    diverged: bool
    share_L: NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """Inverts images at each of some thresholds, in the order given; images may be swept at once, on threads.

    `inverter` has the schedule, `engine` is its own. `thresholds` are in the order of the sweep, descending. `warm` is
    the schedule from one threshold to the next; None starts every threshold as the first one (see above). `packing`
    says how `invert` would store codes.
    """

    inverter: Inverter
    engine: Engine
    thresholds: Sequence[float]
    warm: Schedule | None = None
    packing: Packing = field(default_factory=Packing)
    _measuring: Lock = field(default_factory=Lock)  # one image at a time, as everywhere

    def __call__(self, photograph: Photograph, mapped: Mapped) -> list[Inverted]:
        """Return a photograph inverted at each threshold; nothing is done where its assignment stays the same.

        Raises ValueError if map and segments do not suit `assign_spaces`.
        """
        found: list[Inverted] = []
        assigned = [assign_spaces(mapped.error_LHW, mapped.labels_HW, threshold) for threshold in self.thresholds]
        begun = self._begun(photograph, assigned) if self.warm is None else {}
        for number, assigned_HW in enumerate(assigned):
            before = found[-1] if found else None
            if before is not None and (assigned_HW == before.assignment_HW).all():
                found.append(before)
                continue
            waiting = begun.get(number) or self.engine.submit(partial(self._begin, photograph, assigned_HW, before))
            steps = self.inverter.schedule.steps if self.warm is None or before is None else self.warm.steps
            inversion = waiting.result()
            with self._measuring:
                found.append(_measured(self.inverter, self.packing, photograph, inversion, assigned_HW, steps))
        return found

    def _begun(self, photograph: Photograph, assigned: Sequence[NDArray[np.uint8]]) -> dict[int, Future[Inversion]]:
        """Give the engine every different assignment at once, which fills its batch; return its results by number."""
        different = [i for i, one in enumerate(assigned) if i == 0 or (one != assigned[i - 1]).any()]
        return {i: self.engine.submit(partial(self._begin, photograph, assigned[i], None)) for i in different}

    def _begin(self, photograph: Photograph, assigned_HW: NDArray[np.uint8], before: Inverted | None) -> Item:
        masks = self.inverter.masks(assigned_HW[None])
        if self.warm is None or before is None:
            return self.inverter.item(photograph, masks, assignment_HW=assigned_HW)
        target = self.inverter.target_of(photograph)
        start = warm_start([before.codes], masks, self.inverter.generator.feature_shapes)
        return Item(target, start, self.warm, frozenset(start.deltas))


def warm_start(
    before: Sequence[Codes], masks: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int, int]]
) -> Codes:
    """Return codes to continue from under other masks: w_plus, and the part of each delta that acted and still acts.

    Everything else of a delta is zero, as at the start of every inversion.

    Args:
        before: codes of M images, a batch of 1 each.
        masks: `[M, 1, h, w]` by feature space; these spaces get deltas.
        shapes: `(C, h, w)` of each feature space.
    """
    stacked = stack_codes(before, shapes)
    deltas = zero_deltas(masks, shapes, stacked.w_plus.device)
    for space in deltas.keys() & stacked.deltas.keys():
        still_M1hw = (stacked.masks[space] > 0) & (masks[space] > 0)
        deltas[space] = torch.where(still_M1hw, stacked.deltas[space], deltas[space])
    return Codes(stacked.w_plus, deltas, masks)


class TradeOff(InvertingStage):
    """Invert each image at several thresholds, and measure how much of it stays editable and how close it comes.

    Records, each with one entry per threshold, `threshold`, `psnr_db`, `lpips`, `share` (`[T, L]`, of pixels by space,
    most editable first) and `steps` (0 if nothing had to be inverted again), whether the starts were equal, the digest
    of the generator and the name of the perceptual distance. Segments are those of refine_maps, whatever its threshold
    was.
    """

    name: ClassVar[str] = "trade_off"
    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = (PREDICTED, REFINED)
    on_demand: ClassVar[bool] = True
    keeps: ClassVar[frozenset[Literal["arrays", "files"]]] = frozenset()

    derived: ClassVar[frozenset[str]] = (
        frozenset({"thresholds", "warm"}) | InvertingStage.model_fields.keys()  # those of `invert`
    )

    samples: PositiveInt = 16  # number of samples, chosen by hash, held-out ones first
    points: Annotated[int, Field(ge=3)] = 8  # number of thresholds, evenly spaced in editable area
    warm_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the steps with which a threshold continues from the codes of the next larger one. Cheaper, but points
    and knee are then of unequal starts. None inverts at every threshold from the start of `invert` in all its steps."""
    thresholds: tuple[float, ...]
    warm: Schedule | None = None
    bundles: Packing = Packing()  # how `invert` stores codes

    def steps_of_a_sample(self, spaces: int) -> int:
        """Return the steps of a whole sweep."""
        return self.schedule.steps + (self.warm or self.schedule).steps * (len(self.thresholds) - 1)

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; each image passes through all thresholds at its own pace."""
        inverter = self.inverter(device)
        width = inverter.width(self.batch)

        @cache
        def sweep_of(count: int) -> Sweep:  # a slot without an image would cost as much as one with
            return Sweep(inverter, inverter.engine(min(width, count)), self.thresholds, self.warm, self.bundles)

        def prepare(sample: Sample) -> tuple[Photograph, Mapped]:
            error_LHW = sample.records[PREDICTED].arrays["error_LHW"].astype(np.float32)
            labels_HW = sample.records[REFINED].arrays["labels_HW"].astype(np.int32)
            photograph = self.photograph(sample, self.image.picture(sample).pixels_HW3, inverter)
            return photograph, Mapped(at_size(error_LHW, labels_HW.shape), labels_HW)

        def compute(taken: Sequence[tuple[Photograph, Mapped]]) -> list[Record | Rejected]:
            photographs, maps = zip(*taken, strict=True)
            together = 1 if self.warm is not None else len(self.thresholds)
            sweep = sweep_of(len(taken) * together)
            sweep.engine.expect(len(taken) * len(self.thresholds))
            with ThreadPoolExecutor(len(taken)) as waiting:
                sweeps = waiting.map(sweep, photographs, maps)
                pairs = zip(photographs, sweeps, strict=True)
                return [self._record(photograph.key, points, inverter) for photograph, points in pairs]

        return batched_worker(prepare, compute, width)

    def _record(self, key: str, points: Sequence[Inverted], inverter: Inverter) -> Record | Rejected:
        for threshold, one in zip(self.thresholds, points, strict=True):
            if one.diverged or not np.isfinite(one.psnr_db):
                reason = f"the inversion at threshold {threshold:g} became non-finite; lower the learning rate"
                return Rejected(key, reason)
        anew = [i == 0 or one is not points[i - 1] for i, one in enumerate(points)]
        row: dict[str, Value] = {
            "threshold": np.array(self.thresholds),
            "psnr_db": np.array([one.psnr_db for one in points]),
            "lpips": np.array([one.lpips for one in points]),
            "share": np.stack([one.share_L for one in points]),
            "steps": np.array([one.steps * new for one, new in zip(points, anew, strict=True)], np.int64),
            "equal_starts": self.warm is None,
            "generator": inverter.generator.digest,
            "perceptual": inverter.perceptual.name,
        }
        return Record(key, row)


def _measured(  # noqa: PLR0917
    inverter: Inverter,
    packing: Packing,
    photograph: Photograph,
    inversion: Inversion,
    assignment_HW: NDArray[np.uint8],
    steps: int,
) -> Inverted:
    target_13HW = photograph.image_3HW[None].to(inversion.codes.w_plus.device)
    measures = pack_within(packing, inversion.codes, target_13HW, inverter).measures
    spaces = len(inverter.spaces)
    return Inverted(
        assignment_HW=assignment_HW,
        codes=inversion.codes,
        psnr_db=float(measures.psnr_db),
        lpips=float(measures.lpips),
        steps=steps,
        diverged=bool(inversion.diverged),
        share_L=np.bincount(assignment_HW.ravel(), minlength=spaces) / assignment_HW.size,
    )
