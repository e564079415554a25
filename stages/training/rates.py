"""How a learning rate changes over the steps of a training."""

from __future__ import annotations

import math

import torch

WARM_UP = 0.1  # share of the steps in which the rate rises


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group's learning rate to a share of its `largest_lr`."""
    for group in optimiser.param_groups:
        group["lr"] = group["largest_lr"] * share


def warm_cosine(step: int, steps: int) -> float:
    """Return the share of the largest rate at step `step` of `steps`, in (0, 1]: linear warm-up, then half a cosine."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 0.5) / max(1, steps - warm)))
