"""The endless stream of batches that one worker of a training learns from; its order depends on the seed only.

Memory holds two windows of examples, whatever their number: the current one and the next one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from stages.base.errors import StageError
from stages.base.stage import Rejected, sample_seed
from stages.segmenter.examples import Example, Reader
from stages.segmenter.survey import Survey
from stages.training.workers import Workers


@dataclass(frozen=True)
class Share:
    """Reads one worker's examples, batch by batch."""

    reader: Reader
    survey: Survey
    is_held_out: Callable[[str], bool]
    window: int  # minimum number of examples mixed with each other
    seed: int
    workers: Workers

    @property
    def largest(self) -> int:
        """Largest number of training examples of any worker."""
        return max(self._count(rank) for rank in range(self.workers.world))

    @property
    def count(self) -> int:
        """Number of this worker's training examples."""
        return self._count(self.workers.rank)

    def batches(self, size: int, start: int = 0) -> Iterator[list[Example]]:
        """Yield training batches without end, except the first `start` of them."""
        counts = self._mine(self.survey.training, self.workers.rank)
        seed = sample_seed(self.seed, f"worker/{self.workers.rank}")
        to_read, to_mix = itertools.tee(windows(counts, self.window, seed, start * size))  # the reader is ahead
        read = self._read((window.units for window in to_read), counts, held_out=False)
        examples = (found[i] for window, found in zip(to_mix, read, strict=True) for i in window.order)
        while True:
            yield list(itertools.islice(examples, size))

    def once(self, size: int, *, held_out: bool = True) -> Iterator[list[Example]]:
        """Yield this worker's examples of one kind once, in order; the last batch may be smaller."""
        counts = self._mine(self.survey.held_out if held_out else self.survey.training, self.workers.rank)
        read = self._read(_groups(iter(counts), counts, self.window), counts, held_out=held_out)
        examples = itertools.chain.from_iterable(read)
        while batch := list(itertools.islice(examples, size)):
            yield batch

    def pictured(self) -> Iterator[Example]:
        """Yield the examples to draw."""
        for unit, key in self.survey.pictured:
            yield from _sound(self.reader.read(unit, key.__eq__), 1, [unit])

    def _read(
        self, groups: Iterator[tuple[str, ...]], counts: Mapping[str, int], *, held_out: bool
    ) -> Iterator[list[Example]]:
        """Yield the examples of one kind of each group of units."""

        def wanted(unit: str, key: str) -> bool:
            unfit = key in self.survey.rejected.get(unit, ())
            return not unfit and held_out is (bool(self.survey.held_out) and self.is_held_out(key))

        for group in self.reader.ahead(groups, wanted):
            found = [one for of_unit in group.values() for one in of_unit]
            yield _sound(found, sum(counts[unit] for unit in group), list(group))

    def _count(self, rank: int) -> int:
        return sum(self._mine(self.survey.training, rank).values())

    def _mine(self, counts: Mapping[str, int], rank: int) -> dict[str, int]:
        return dict(Workers(rank, self.workers.world).share(list(counts.items())))


@dataclass(frozen=True)
class Window:
    """Units whose examples are mixed, and the numbers of those examples in their new order."""

    units: tuple[str, ...]
    order: Sequence[int]


def windows(counts: Mapping[str, int], least: int, seed: int, start: int = 0) -> Iterator[Window]:
    """Yield windows without end: pass after pass over all units, each in a different order.

    A pass takes the units in a new order, in groups of at least `least` examples, and mixes the examples of each:
    every example comes once per pass, and memory needs to hold one window only.

    Args:
        counts: number of examples per unit; at least one in total.
        least: minimum number of examples per window, if the pass has enough left.
        seed: with the number of the pass, decides every order.
        start: number of examples to skip; the rest is unchanged.
    """
    each = sum(counts.values())
    for number in itertools.count(start // each):
        generator = torch.Generator().manual_seed(sample_seed(seed, f"pass/{number}"))
        names = list(counts)
        order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
        skip = max(0, start - number * each)
        for units in _groups(iter(order), counts, least):
            mixed = torch.randperm(sum(counts[unit] for unit in units), generator=generator).tolist()
            if rest := mixed[skip:]:
                yield Window(units, rest)
            skip = max(0, skip - len(mixed))


def _groups(units: Iterator[str], counts: Mapping[str, int], least: int) -> Iterator[tuple[str, ...]]:
    """Yield the units in groups that hold `least` examples; the last may hold fewer."""
    group: list[str] = []
    for unit in units:
        group.append(unit)
        if sum(counts[one] for one in group) >= least:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def _sound(found: Sequence[Example | Rejected], count: int, units: Sequence[str]) -> list[Example]:
    """Return the examples read if they are `count`, as in the survey; raise StageError if the data changed."""
    examples = [one for one in found if isinstance(one, Example)]
    if len(examples) != count or len(found) != count:
        reasons = [f"{one.key}: {one.reason}" for one in found if isinstance(one, Rejected)] or ["some are missing"]
        raise StageError(
            f"the supervision changed while train_segmenter read it: {', '.join(units)} held {count} examples and now "
            f"{len(examples)} ({reasons[0]}); run again"
        )
    return examples
