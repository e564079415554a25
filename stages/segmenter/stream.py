"""What one worker of a training learns from: a stream of batches without end, whose order depends on the seed alone.

Memory holds two windows of examples, however many there are: the one that is learnt from, and the next one.
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
from stages.segmenter.workers import Workers


@dataclass(frozen=True)
class Share:
    """Reads what is one worker's, batch by batch."""

    reader: Reader
    survey: Survey
    is_held_out: Callable[[str], bool]
    window: int  # least examples that are mixed with each other
    seed: int
    workers: Workers

    @property
    def largest(self) -> int:
        """How many examples the worker with most has to train on."""
        return max(self._count(rank) for rank in range(self.workers.world))

    @property
    def count(self) -> int:
        """How many examples this worker has to train on."""
        return self._count(self.workers.rank)

    def batches(self, size: int, start: int = 0) -> Iterator[list[Example]]:
        """Yield batches to train on without end, leaving out the first `start` of them."""
        counts = self._mine(self.survey.training, self.workers.rank)
        seed = sample_seed(self.seed, f"worker/{self.workers.rank}")
        to_read, to_mix = itertools.tee(windows(counts, self.window, seed, start * size))  # the reader is ahead
        read = self._read((window.units for window in to_read), counts, held_out=False)
        examples = (found[i] for window, found in zip(to_mix, read, strict=True) for i in window.order)
        while True:
            yield list(itertools.islice(examples, size))

    def once(self, size: int, *, held_out: bool = True) -> Iterator[list[Example]]:
        """Yield this worker's examples of one kind once, in their order; the last batch may be smaller."""
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
    """Units whose examples are mixed with each other, and the numbers of those examples in their new order."""

    units: tuple[str, ...]
    order: Sequence[int]


def windows(counts: Mapping[str, int], least: int, seed: int, start: int = 0) -> Iterator[Window]:
    """Yield windows without end: pass after pass over all units, each in an order of its own.

    A pass takes the units in a new order, as many at a time as hold `least` examples, and mixes the examples of these:
    every example comes once a pass, and no more than a window of them need be in memory.

    Args:
        counts: how many examples each unit has; at least one in all.
        least: examples in a window, if the pass has so many left.
        seed: with the number of the pass, decides every order.
        start: how many examples to leave out; the rest is what it would have been.
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
    """Return what was read if that is `count` examples, as at first sight; raises StageError if the data changed."""
    examples = [one for one in found if isinstance(one, Example)]
    if len(examples) != count or len(found) != count:
        reasons = [f"{one.key}: {one.reason}" for one in found if isinstance(one, Rejected)] or ["some are missing"]
        raise StageError(
            f"the supervision changed while train_segmenter read it: {', '.join(units)} held {count} examples and now "
            f"{len(examples)} ({reasons[0]}); run again"
        )
    return examples
