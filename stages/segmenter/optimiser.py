"""The optimiser of the segmenter, and how its learning rate changes over the steps."""

from __future__ import annotations

from typing import Literal

import torch

from stages.segmenter.network import Segmenter
from stages.training.rates import warm_cosine

Optimiser = Literal["adamw", "sgd"]
"""sgd: momentum .9 and polynomial decay, as the authors' code."""

PRETRAINED_RATE = 0.1  # a pretrained backbone learns ten times slower than new layers (authors' code)


def new_optimiser(
    name: Optimiser, segmenter: Segmenter, learning_rate: float, weight_decay: float, *, pretrained: bool
) -> torch.optim.Optimizer:
    """Return the optimiser of a segmenter, whose groups have their `largest_lr`; a pretrained backbone's is lower."""
    slow = [p for name, p in segmenter.named_parameters() if pretrained and name.startswith("backbone.backbone.")]
    fast = [p for name, p in segmenter.named_parameters() if not (pretrained and name.startswith("backbone.backbone."))]
    rates = ((slow, PRETRAINED_RATE * learning_rate), (fast, learning_rate))
    groups = [{"params": params, "lr": rate, "largest_lr": rate} for params, rate in rates if params]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def rate_at(optimiser: Optimiser, step: int, steps: int) -> float:
    """Return the share of the largest learning rate that step `step` of `steps` uses, in (0, 1].

    sgd: (1 - t)^0.9, the authors' polynomial decay. adamw: linear warm-up, then half a cosine.
    """
    if optimiser == "sgd":
        return float((1 - step / steps) ** 0.9)
    return warm_cosine(step, steps)
