"""Where an inversion starts that knows the class of its image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.generator import Generator
from generators.prior import draw_w
from stages.inversion.learnt_start import LearntStart
from stages.objective.objective import Target

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual

DRAWS = 10_000  # of z, as for the prior


class ClassStarts:
    """For each class the mean w of its draws, or its learnt start; made when an image of it is first inverted.

    A class that comes again after several others is learnt again: with a learnt start, shards are best sorted by class.

    Args:
        generator: a conditional one.
        learn: returns the learnt start of a class, given as `[label_dim]`; without it, the mean w is the start.
    """

    def __init__(self, generator: Generator, learn: Callable[[Tensor], LearntStart] | None = None) -> None:
        self._generator, self._learn = generator, learn
        self._mean_w = functools.cache(self._drawn_mean)

    def w_of(self, label: int, perceptual: Perceptual, target: Target) -> Tensor:
        """Return the w that inversions of targets of one class start from, `[N, w_dim]` float32."""
        if self._learn is not None:
            return self._learn(self._one_hot(label)).w_of(perceptual, target)
        return self._mean_w(label).expand(len(target.image), -1)

    @torch.no_grad()
    def _drawn_mean(self, label: int) -> Tensor:
        mean = draw_w(self._generator, DRAWS, label=self._one_hot(label)).double().mean(dim=0)
        return mean.float().to(next(self._generator.parameters()).device)

    def _one_hot(self, label: int) -> Tensor:
        return F.one_hot(torch.tensor(label), self._generator.label_dim).float()
