"""Moves of images from one class of a conditional generator to another (thesis Fig. 4.4)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from generators.classes import mean_w_of_class
from generators.errors import DirectionError
from generators.generator import Generator


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The mean codes of a generator's classes, each drawn when it is first needed."""

    generator: Generator
    _of: dict[int, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def device(self) -> torch.device:
        """The device of the generator."""
        return next(self.generator.parameters()).device

    def check(self, label: int | None) -> None:
        """Raise DirectionError if the generator has no classes, or not this one; None is any."""
        classes = self.generator.label_dim
        if classes == 0:
            raise DirectionError("the generator is unconditional, and images have no class: remove to_class")
        if label is not None and not 0 <= label < classes:
            raise DirectionError(f"the generator has the classes 0 to {classes - 1}, got {label}")

    def __getitem__(self, label: int) -> Tensor:
        """Return the mean code of a class, `[w_dim]`."""
        if label not in self._of:
            self._of[label] = mean_w_of_class(self.generator, label)
        return self._of[label]


@dataclass(frozen=True, eq=False)
class MoveOfClass:
    """A move between classes: the difference of their mean codes, times a factor, in some rows of w_plus."""

    means: ClassMeans
    to_class: int
    from_class: int | None  # None: from each image's own
    rows_R1: Tensor  # `[num_ws or 1, 1]`, 1 where it acts and 0 elsewhere
    factor: float = 1.0

    def times(self, magnitude: float) -> MoveOfClass:
        """Return the move with a magnitude."""
        return replace(self, factor=magnitude * self.factor)

    def change_of(self, classes_N: Sequence[int | None]) -> Tensor:
        """Return its δw+, `[num_ws or 1, w_dim]`, or `[N, num_ws or 1, w_dim]` if images move from their own class."""
        target_D = self.means[self.to_class]
        if self.from_class is not None:
            return self.factor * self.rows_R1 * (target_D - self.means[self.from_class])
        difference_ND = torch.stack([target_D - self._mean_of(label) for label in classes_N])
        return self.factor * self.rows_R1 * difference_ND[:, None]

    def _mean_of(self, label: int | None) -> Tensor:
        assert label is not None, "an image without a class does not get here"
        return self.means[label]
