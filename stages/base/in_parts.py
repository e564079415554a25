"""Compute batches that do not fit into memory in parts, halved each time memory is full."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from stages.base.memory import out_of_memory

_log = logging.getLogger(__name__)

T = TypeVar("T")
Result = TypeVar("Result")


class _Room:
    """How many items are computed at once: all that come until memory is full, then half as many for good."""

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self.most: int | None = None  # None until memory was full

    def of(self, count: int) -> int:
        """Return how many of a number of items to compute at once."""
        return max(1, min(count, self.most or count))

    def halve(self, before: int, reason: str) -> None:
        """Note that memory was full; raise `torch.OutOfMemoryError` if it was for a single item."""
        torch.cuda.empty_cache()  # does nothing without CUDA
        if before == 1:
            raise torch.OutOfMemoryError(
                f"memory is too small for {self._what} of one image: {self._remedy}, or stop other programs on the "
                f"device; {reason}"
            )
        self.most = before // 2
        _log.warning("no memory for %s of %d images at once, continuing with %d", self._what, before, self.most)


class InParts:
    """A function of a batch of independent images, applied to as many at once as memory has room for.

    If memory is full, the number is halved for good. Parts change a result by rounding only.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        what: str,
        remedy: str = "choose a smaller train_segmenter.network",
    ) -> None:
        self._function = function
        self._room = _Room(what, remedy)

    def __call__(self, batch_N: Tensor) -> Tensor:
        """Return the function of a batch; raise `torch.OutOfMemoryError` if memory is too small for one image."""
        while True:
            size = self._room.of(len(batch_N))
            try:
                parts = [self._function(part) for part in batch_N.split(size)]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                full = str(error)
            else:
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            self._room.halve(size, full)  # not earlier: the error keeps its allocations alive


class ItemsInParts(Generic[T, Result]):
    """A function of independent items that gives a result for each, applied to as many as memory has room for.

    If memory is full, the number is halved for good, and only the items without a result are computed again.
    """

    def __init__(self, function: Callable[[Sequence[T]], Sequence[Result]], what: str, remedy: str) -> None:
        self._function, self._room = function, _Room(what, remedy)

    def __call__(self, items: Sequence[T]) -> list[Result]:
        """Return the result of each item; raise `torch.OutOfMemoryError` if memory is too small for one."""
        results: list[Result] = []
        while remaining := items[len(results) :]:
            part = remaining[: self._room.of(len(remaining))]
            try:
                computed = self._function(part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                full = str(error)
            else:
                results += computed
                continue
            self._room.halve(len(part), full)  # not earlier: the error keeps its allocations alive
        return results
