"""The survey of all examples before training: number per unit, mean error, and which ones are unfit."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.base.errors import StageError
from stages.base.stage import Rejected, sample_seed
from stages.segmenter.examples import READERS, Example, ExampleSource, Reader, defect_of
from stages.segmenter.network import Target
from stages.training.workers import Workers

PICTURED = 4  # examples shown when the training is done


@dataclass(frozen=True)
class Survey:
    """The result of the survey. It is the same on every worker, and grows with the number of units only."""

    training: Mapping[str, int]  # number of training examples per unit; units without any are omitted
    held_out: Mapping[str, int]
    moments_3L: Sequence[Sequence[float]]  # means of √e, e and e² in each space, over the training examples
    rejected: Mapping[str, Mapping[str, str]]  # by unit and key: excluded examples with the reason
    pictured: Sequence[tuple[str, str]]  # unit and key of some held-out examples (of any, if none is held out)

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of training and held-out examples."""
        return sum(self.training.values()), sum(self.held_out.values())

    def mean_and_variance(self, target: Target) -> tuple[list[float], list[float]]:
        """Return mean and variance of a target in each space: output and loss of the trivial predictor."""
        first = 0 if target == "root" else 1
        mean_L, square_L = np.asarray(self.moments_3L[first]), np.asarray(self.moments_3L[first + 1])
        return mean_L.tolist(), (square_L - mean_L**2).tolist()


@dataclass
class _Part:
    """The examples of one kind in one unit."""

    count: int = 0
    sums_3L: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 1)))
    """Over examples, of the means of √e, e and e² over pixels."""
    pictured: list[tuple[int, str]] = field(default_factory=list)

    def add(self, example: Example, seed: int) -> None:
        error_LHW = example.error_LHW.astype(np.float64)
        self.count += 1
        powers = (np.sqrt(error_LHW), error_LHW, error_LHW**2)
        self.sums_3L = self.sums_3L + np.stack([power.mean(axis=(1, 2)) for power in powers])
        self.pictured = heapq.nsmallest(PICTURED, [*self.pictured, (sample_seed(seed, example.key), example.key)])


@dataclass
class _Look:
    """The examples of one unit."""

    unit: str
    training: _Part = field(default_factory=_Part)
    held_out: _Part = field(default_factory=_Part)
    rejected: dict[str, str] = field(default_factory=dict)


def survey(reader: Reader, is_held_out: Callable[[str], bool], seed: int, workers: Workers) -> Survey:
    """Return what all workers find together, each reading its share of the units once; `seed` chooses the pictures.

    Raises:
        StageError: there are no sound examples, or fewer units of them than workers.
    """
    units = reader.source.units
    looks = {look.unit: look for look in workers.gathered(list(_looks(reader, workers, is_held_out, seed)))}
    rejected = {unit: looks[unit].rejected for unit in units if looks[unit].rejected}
    training = {unit: looks[unit].training for unit in units if looks[unit].training.count}
    held_out = {unit: looks[unit].held_out for unit in units if looks[unit].held_out.count}
    if not training:  # too few to hold any out
        training, held_out = held_out, {}
    if len(training) < workers.world:
        raise StageError(_too_few(reader.source, len(training), rejected, workers.world))
    total = sum(part.count for part in training.values())
    moments_3L = np.stack([part.sums_3L for part in training.values()]).sum(axis=0) / total
    candidates = [(*one, unit) for unit, part in (held_out or training).items() for one in part.pictured]
    return Survey(
        training={unit: part.count for unit, part in training.items()},
        held_out={unit: part.count for unit, part in held_out.items()},
        moments_3L=moments_3L.tolist(),
        rejected=rejected,
        pictured=[(unit, key) for _, key, unit in heapq.nsmallest(PICTURED, candidates)],
    )


def _looks(reader: Reader, workers: Workers, is_held_out: Callable[[str], bool], seed: int) -> Iterator[_Look]:
    mine = workers.share(reader.source.units)
    groups = (mine[i : i + READERS] for i in range(0, len(mine), READERS))
    for group in reader.ahead(groups, lambda _unit, _key: True):
        for unit, found in group.items():
            look = _Look(unit)
            for one in found:
                if reason := one.reason if isinstance(one, Rejected) else defect_of(one, reader.source):
                    look.rejected[one.key] = reason
                elif isinstance(one, Example):
                    (look.held_out if is_held_out(one.key) else look.training).add(one, seed)
            yield look


def _too_few(source: ExampleSource, units: int, rejected: Mapping[str, Mapping[str, str]], world: int) -> str:
    unfit = [f"{key}: {reason}" for of_unit in rejected.values() for key, reason in of_unit.items()]
    spaces, said = ", ".join(source.spaces), f"; {len(unfit)} are unfit, the first is {unfit[0]}" if unfit else ""
    if units:
        return (
            f"train_segmenter has {world} workers, but the training supervision for {spaces} lies in {units} "
            f"units{said}: lower compute.training_workers or unit_samples"
        )
    return (
        f"train_segmenter found no sound error maps for {spaces}{said}: enlarge the supervision subset of error_maps, "
        "or check its quarantine"
    )
