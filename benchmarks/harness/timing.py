"""Seconds of one side of a comparison, and the ratio of two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes, the device's work included."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def median_ratio(above_s: Sequence[float], below_s: Sequence[float]) -> float:
    """Return the median over turns of the ratio of two sides' seconds."""
    return round(statistics.median(a / b for a, b in zip(above_s, below_s, strict=True)), 3)
