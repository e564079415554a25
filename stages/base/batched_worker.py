"""The worker of a stage that computes in batches: it prepares samples ahead of the device and records after it."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from stages.base.errors import BadSampleError
from stages.base.faults import may_be_a_samples, reason_of
from stages.base.stage import Record, Rejected, Sample, Worker

PREPARING = max(1, min(4, (os.cpu_count() or 1) - 1))
"""Threads that prepare samples for one call; one core is left for the computing thread."""

BEHIND = 2
"""Batches that may have unfinished records when the next is computed: one is copied back, one is on the device."""

T = TypeVar("T")
Prepared = TypeVar("Prepared")


def batched_worker(
    prepare: Callable[[Sample], Prepared],
    compute: Callable[[Sequence[Prepared]], Iterable[Record | Rejected]],
    batch: int,
    begins: Callable[[int], None] = lambda samples: None,
) -> Worker:
    """Return a worker that prepares samples one by one and computes them in batches, in their order.

    While a batch is computed, the next samples are prepared and the last records are made, on separate
    threads that end with the call. Calls from several threads compute in turn, one after the other:
    a waiting call has its first batch ready, and a call that has computed all its batches makes its last records while
    the next call computes. At most `BEHIND + 2` batches are held: one prepared, one computed, `BEHIND` being recorded.

    Whatever a sample makes either function raise rejects only that sample. If a batch fails, its samples are computed
    again in halves until those that fail alone are found. An error that no sample can cause
    (`may_be_a_samples`) is raised, and so is an error if several samples of a call fail and none is recorded.

    Args:
        prepare: raises `BadSampleError` to reject a sample. Several threads call it at once.
        compute: returns one record or rejection per prepared sample. Another thread iterates over the result, after
            the device: let a generator do whatever waits for the device or makes records.
        batch: maximum number of samples computed together.
        begins: called in turn with the number of samples of each call, before the call computes anything.
    """
    turn = threading.Lock()

    def work(samples: Sequence[Sample]) -> Iterator[Record | Rejected]:
        with _threads(PREPARING, "prepare") as preparing, _threads(1, "record") as recording:
            prepared = _ahead(preparing, partial(_prepared, prepare), samples, batch)
            batches: list[_Batch[Prepared]] = []
            with turn:
                begins(len(samples))
                while items := list(itertools.islice(prepared, batch)):
                    batches.append(_Batch(items, compute, recording))
                    if len(batches) > BEHIND:
                        batches[-1 - BEHIND].finish()
            for last in batches[-BEHIND:]:
                last.finish(turn)
        return iter(_accepted([outcome for one in batches for outcome in one.outcomes]))

    return work


@dataclass(frozen=True, eq=False)
class _Ready(Generic[Prepared]):
    """A sample to be computed."""

    key: str
    prepared: Prepared


@dataclass(frozen=True, eq=False)
class _Failed:
    """A sample that alone made the stage raise an unexpected error."""

    key: str
    error: Exception


Compute = Callable[[Sequence[Prepared]], Iterable[Record | Rejected]]
Outcome = Record | Rejected | _Failed


class _Batch(Generic[Prepared]):
    """Samples computed together, started at construction; `outcomes` are in their order once it is finished."""

    def __init__(
        self, items: Sequence[_Ready[Prepared] | Rejected | _Failed], compute: Compute[Prepared], recording: Executor
    ) -> None:
        self._items, self._compute = items, compute
        self._ready = [item for item in items if isinstance(item, _Ready)]
        try:
            begun = compute([one.prepared for one in self._ready]) if self._ready else ()
        except Exception as error:  # of any kind; the rest is examined when the batch is finished
            if not may_be_a_samples(error):
                raise
            begun = _raising(error)
        self._recorded = recording.submit(_until_error, begun)
        self.outcomes: list[Outcome] = []

    def finish(self, turn: AbstractContextManager[object] | None = None) -> None:
        """Wait for the records; compute again what a failure left out, in `turn` if that is not held already."""
        found, error = self._recorded.result()
        results = deque[Outcome](found)
        if error is not None:
            with turn or nullcontext():
                results.extend(_again(self._compute, self._ready, len(found), error))
        self.outcomes = [results.popleft() if isinstance(item, _Ready) else item for item in self._items]
        assert not results, "compute returned more results than it was given samples"


def _again(
    compute: Compute[Prepared], ready: Sequence[_Ready[Prepared]], done: int, error: Exception
) -> Iterator[Outcome]:
    """Yield the outcomes of a batch that failed after this many; halve the rest until each culprit is alone."""
    rest = ready[done:]
    if not (rest and may_be_a_samples(error)):
        raise error
    if len(ready) == 1:
        yield _failed(ready[0].key, error)
        return
    half = -(-len(rest) // 2)
    for part in (rest[:half], rest[half:]):
        try:
            begun = compute([one.prepared for one in part]) if part else ()
        except Exception as raised:  # of any kind, as before
            begun = _raising(raised)
        found, failure = _until_error(begun)
        yield from found
        if failure is not None:
            yield from _again(compute, part, len(found), failure)


def _until_error(results: Iterable[Record | Rejected]) -> tuple[list[Record | Rejected], Exception | None]:
    """Return the results before an error, and the error, None if there was none."""
    found: list[Record | Rejected] = []
    try:
        found.extend(results)  # keeps the results before the error
    except Exception as error:  # of any kind
        return found, error
    return found, None


def _raising(error: Exception) -> Iterator[Record | Rejected]:
    raise error
    yield


def _failed(key: str, error: Exception) -> Rejected | _Failed:
    return Rejected(key, str(error)) if isinstance(error, BadSampleError) else _Failed(key, error)


def _accepted(outcomes: Sequence[Outcome]) -> list[Record | Rejected]:
    """Return the results of a call; raise the first failure if several samples failed and none was recorded."""
    failed = [one for one in outcomes if isinstance(one, _Failed)]
    if len(failed) > 1 and not any(isinstance(one, Record) for one in outcomes):
        raise failed[0].error
    return [Rejected(one.key, reason_of(one.error)) if isinstance(one, _Failed) else one for one in outcomes]


@contextmanager
def _threads(count: int, name: str) -> Iterator[Executor]:
    """Yield threads that end with the block; drop whatever they have not begun by then."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool: Executor, function: Callable[[Sample], T], samples: Iterable[Sample], count: int) -> Iterator[T]:
    """Return the function's results in order; `count` samples start at once, and one more for each result taken."""
    remaining = iter(samples)
    begun = deque(pool.submit(function, sample) for sample in itertools.islice(remaining, count))

    def results() -> Iterator[T]:
        while begun:
            taken = begun.popleft()
            begun.extend(pool.submit(function, sample) for sample in itertools.islice(remaining, 1))
            yield taken.result()

    return results()


def _prepared(prepare: Callable[[Sample], Prepared], sample: Sample) -> _Ready[Prepared] | Rejected | _Failed:
    try:
        return _Ready(sample.key, prepare(sample))
    except Exception as error:  # decoders and libraries raise any kind
        if not may_be_a_samples(error):
            raise
        return _failed(sample.key, error)
