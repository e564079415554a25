"""Compute batches that do not fit into memory in parts, halved each time memory is full."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from stages.base.memory import out_of_memory

_log = logging.getLogger(__name__)


class InParts:
    """A function of a batch of independent images, applied to as many at once as memory has room for.

    If memory is full, the number is halved for good. Parts change a result by rounding only.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], what: str) -> None:
        self._function, self._what = function, what
        self._most: int | None = None  # images at once; None until memory was full

    def __call__(self, batch_N: Tensor) -> Tensor:
        """Return the function of a batch; raise `torch.OutOfMemoryError` if memory is too small for one image."""
        while True:
            try:
                parts = [self._function(part) for part in batch_N.split(self._most or max(1, len(batch_N)))]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                full = str(error)
            else:
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            self._halve(len(batch_N), full)  # not earlier: the error keeps its allocations alive

    def _halve(self, count: int, reason: str) -> None:
        before = min(count, self._most or count)
        torch.cuda.empty_cache()  # does nothing without CUDA
        if before == 1:
            raise torch.OutOfMemoryError(
                f"memory is too small for {self._what} of one image: choose a smaller train_segmenter.network, or "
                f"stop other programs on the device; {reason}"
            )
        self._most = before // 2
        _log.warning("no memory for %s of %d images at once, continuing with %d", self._what, before, self._most)
