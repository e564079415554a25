"""The result of inverting images: their codes, and how the loss fell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from generators.latents import Codes

CURVE_POINTS = 5  # number of points of a loss curve quoted in a reason for quarantine


@dataclass(frozen=True, eq=False)
class Trace:
    """The weighted loss terms during the inversion: for each of `TERMS` and ``total``, ``[K, N]`` float64 on the CPU.

    A row holds the terms before the update of the step in ``steps [K]`` (int64).
    """

    steps: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Inversion:
    """The codes, the loss curve, and which images diverged (``[N]`` bool on the CPU).

    An image diverged if its loss or its codes became non-finite, and did so again at half the learning rate: its codes
    are those of its start, its trace is that of the second attempt.
    """

    codes: Codes
    trace: Trace
    diverged: Tensor


def fate(inversion: Inversion, image: int = 0) -> str:
    """Return the reason for rejecting a diverged image: what happened, its thinned loss curve, the remedy."""
    total_K, steps_K = inversion.trace.terms["total"][:, image], inversion.trace.steps
    fell = total_K.isfinite()
    every = max(1, int(fell.sum()) // CURVE_POINTS)
    finite = list(zip(steps_K[fell].tolist(), total_K[fell].tolist(), strict=True))
    curve = ", ".join(f"{loss:.4g} at step {step}" for step, loss in finite[::every]) or "never finite"
    return f"became non-finite, and again at half the learning rate (loss {curve}); lower the learning rate"
