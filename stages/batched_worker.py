"""The worker of a stage that computes in batches: samples are prepared ahead of the device, records made behind it."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from stages.errors import BadSampleError
from stages.stage import Record, Rejected, Sample, Worker

PREPARING = max(1, min(4, (os.cpu_count() or 1) - 1))
"""Threads that prepare samples for one call: a core is left for the thread that computes."""

BEHIND = 2
"""Batches whose records may be unfinished when the next one is computed: one is copied back, one is on the device."""

T = TypeVar("T")
Prepared = TypeVar("Prepared")


def batched_worker(
    prepare: Callable[[Sample], Prepared],
    compute: Callable[[Sequence[Prepared]], Iterable[Record | Rejected]],
    batch: int,
    begins: Callable[[int], None] = lambda samples: None,
) -> Worker:
    """Return a worker that prepares samples one by one and computes them in batches, keeping their order.

    While a batch is computed, the samples of the next one are prepared and the records of the last one are made, each
    on threads of their own, which end with the call. Calls from several threads compute in turn, one after the other:
    a call that waits has its first batch ready, and one that has computed all its batches makes the last records while
    the next call computes. Prepared samples of few batches are held: one ahead, the one computed, `BEHIND` behind it.

    Args:
        prepare: raises `BadSampleError` for a sample to be rejected. Called by several threads at once.
        compute: returns one record or rejection for each prepared sample. What it returns is iterated on another
            thread, behind the device: what waits for the device, or makes records, is best left to a generator.
        batch: the most samples computed together.
        begins: called in turn with the number of samples of each call, before anything of it is computed.
    """
    turn = threading.Lock()

    def work(samples: Sequence[Sample]) -> Iterator[Record | Rejected]:
        with _threads(PREPARING, "prepare") as preparing, _threads(1, "record") as recording:
            prepared = _ahead(preparing, partial(_prepared_or_rejected, prepare), samples, batch)
            recorded: list[Future[list[Record | Rejected]]] = []
            with turn:
                begins(len(samples))
                while group := list(itertools.islice(prepared, batch)):
                    good = [item for item in group if not isinstance(item, Rejected)]
                    recorded.append(recording.submit(_in_order, group, compute(good) if good else ()))
                    if len(recorded) > BEHIND:
                        recorded[-1 - BEHIND].result()
            return itertools.chain.from_iterable([future.result() for future in recorded])

    return work


@contextmanager
def _threads(count: int, name: str) -> Iterator[Executor]:
    """Lend threads that end with the block, however it ends; what they have not begun by then is dropped."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool: Executor, function: Callable[[Sample], T], samples: Iterable[Sample], count: int) -> Iterator[T]:
    """Return the function's results in order; `count` samples are begun at once, another for each one taken."""
    remaining = iter(samples)
    begun = deque(pool.submit(function, sample) for sample in itertools.islice(remaining, count))

    def results() -> Iterator[T]:
        while begun:
            taken = begun.popleft()
            begun.extend(pool.submit(function, sample) for sample in itertools.islice(remaining, 1))
            yield taken.result()

    return results()


def _prepared_or_rejected(prepare: Callable[[Sample], Prepared], sample: Sample) -> Prepared | Rejected:
    try:
        return prepare(sample)
    except BadSampleError as error:
        return Rejected(sample.key, str(error))


def _in_order(
    prepared: Sequence[Prepared | Rejected], computed: Iterable[Record | Rejected]
) -> list[Record | Rejected]:
    """Return the results of a batch in the order of its samples, rejections where they were."""
    results = deque(computed)
    ordered = [item if isinstance(item, Rejected) else results.popleft() for item in prepared]
    assert not results, "compute returned more results than it was given samples"
    return ordered
