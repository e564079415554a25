"""The endless stream of examples that one worker of a training learns from, as a webdataset pipeline.

Each pass takes all units in a new order. `split_by_node` and `split_by_worker` give every process its own units, whose
samples, still encoded, are mixed in a shuffle buffer and decoded after it. The order depends on the seed and the number
of processes only, so a training that is resumed at a position sees the same examples as one that never stopped.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

import torch
import webdataset as wds

from stages.base.errors import StageError
from stages.base.stage import Rejected, Sample, sample_seed
from stages.encoder.examples import Example, ExampleSource
from stages.training.workers import Workers

READERS = 4  # threads that read and decode while the device computes

T = TypeVar("T")
U = TypeVar("U")


class Position(NamedTuple):
    """How far a worker has read: the number of the pass, and the samples taken from its shuffle buffer in it."""

    number: int = 0
    taken: int = 0


FIRST = Position()


@dataclass(frozen=True)
class _Read:
    """A sample of the stream."""

    unit: str
    sample: Sample
    position: Position = FIRST


@dataclass(eq=False)
class Stream:
    """Reads one worker's examples.

    Args:
        source: the examples of all workers.
        is_held_out: whether the example of a key is kept for validation.
        window: samples in the shuffle buffer.
        seed: decides every order.
        workers: which worker this is; webdataset learns the same from `torch.distributed`.
    """

    source: ExampleSource
    is_held_out: Callable[[str], bool]
    window: int
    seed: int
    workers: Workers
    rejected: dict[str, dict[str, str]] = field(default_factory=dict)  # by unit and key, with the reason

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(READERS, "examples")
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(self, size: int, start: Position) -> Iterator[tuple[list[Example], Position]]:
        """Yield training batches without end, each with the position after it.

        Raises:
            StageError: a whole pass has no example.
        """
        batch: list[Example] = []
        fruitful = start.number
        for read, example in self._decoded(self._passes(start), 2 * size):
            if read is None or read.position.number > fruitful + 1:
                break
            if isinstance(example, Example):
                fruitful = read.position.number
                batch.append(example)
            if len(batch) == size:
                yield batch, read.position
                batch = []
        raise StageError(
            f"train_encoder found no example in a whole pass over {len(self.source.units)} units for worker "
            f"{self.workers.rank} of {self.workers.world}{self._first_reason()}: choose more samples, or lower "
            "compute.training_workers or unit_samples"
        )

    def held_out(self, size: int, most: int) -> Iterator[list[Example]]:
        """Yield up to `most` of this worker's held-out examples, always the same; the last batch may be smaller."""
        read = self._reads(wds.DataPipeline(lambda: iter(self.source.units), wds.split_by_node), self.is_held_out)
        examples = (e for _, e in self._decoded(itertools.islice(read, most), 2 * size) if isinstance(e, Example))
        while batch := list(itertools.islice(examples, size)):
            yield batch

    def _passes(self, start: Position) -> Iterator[_Read | None]:
        """Yield the samples of pass after pass with their positions; None after a pass without any."""
        for number in itertools.count(start.number):
            taken = start.taken if number == start.number else 0
            count = taken
            for read in itertools.islice(self._pass(number), taken, None):
                count += 1
                yield _Read(read.unit, read.sample, Position(number, count))
            if not count:
                yield None

    def _pass(self, number: int) -> Iterable[_Read]:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, f"pass/{number}"))
        units = list(self.source.units)
        order = [units[i] for i in torch.randperm(len(units), generator=generator).tolist()]
        mixing = random.Random(sample_seed(self.seed, f"pass/{number}/worker/{self.workers.rank}"))
        pipeline: Iterable[_Read] = wds.DataPipeline(
            lambda: iter(order),
            wds.split_by_node,
            wds.split_by_worker,
            lambda names: self._reads(names, lambda key: not self.is_held_out(key)),
            wds.shuffle(self.window, initial=self.window, rng=mixing),
        )
        return pipeline

    def _reads(self, units: Iterable[str], wanted: Callable[[str], bool]) -> Iterator[_Read]:
        """Yield the samples of units in order; the next units are read meanwhile."""

        def read(unit: str) -> list[Sample]:
            return list(self.source.read(unit, wanted))

        for unit, samples in _ahead(self._pool, read, units, READERS):
            yield from (_Read(unit, sample) for sample in samples)

    def _decoded(
        self, reads: Iterable[_Read | None], ahead: int
    ) -> Iterator[tuple[_Read, Example | Rejected] | tuple[None, None]]:
        """Yield samples with their examples in order, decoded ahead; note the rejected ones."""

        def decode(read: _Read | None) -> Example | Rejected | None:
            return None if read is None else self.source.example(read.sample)

        for read, example in _ahead(self._pool, decode, reads, ahead):
            if read is None or example is None:
                yield None, None
                continue
            if isinstance(example, Rejected):
                self.rejected.setdefault(read.unit, {})[example.key] = example.reason
            yield read, example

    def _first_reason(self) -> str:
        reasons = [f"{key}: {reason}" for of_unit in self.rejected.values() for key, reason in of_unit.items()]
        return f" ({len(reasons)} are unfit, the first is {reasons[0]})" if reasons else ""


def _ahead(pool: Executor, function: Callable[[T], U], items: Iterable[T], count: int) -> Iterator[tuple[T, U]]:
    """Yield items with the function's results in order; `count` items are in work at once."""
    remaining = iter(items)
    begun = deque[tuple[T, Future[U]]]()

    def begin(most: int) -> None:
        begun.extend((item, pool.submit(function, item)) for item in itertools.islice(remaining, most))

    begin(count)
    while begun:
        item, future = begun.popleft()
        begin(1)
        yield item, future.result()


def positions_of(kept: Sequence[Sequence[int]], workers: Workers) -> Position:
    """Return where this worker continues, given all workers' positions in a state.

    With another number of workers units are shared differently, so the next pass begins.
    """
    positions = [Position(*each) for each in kept]
    if len(positions) == workers.world:
        return positions[workers.rank]
    return Position(max(position.number for position in positions) + 1)
