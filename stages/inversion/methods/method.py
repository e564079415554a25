"""The contract of a method: a setting that finds the codes of photographs whose pixels have been assigned spaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.base.variant import Variant
from stages.engine.result import Inversion
from stages.inversion.viewer import Photograph, Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


@dataclass(frozen=True)
class Assigned:
    """A photograph, and the space of each pixel of the region: `[H, W]` uint8 index into the spaces."""

    photograph: Photograph
    assignment_HW: NDArray[np.uint8]


@dataclass(frozen=True)
class Finder:
    """A method whose networks are loaded."""

    find: Callable[[Sequence[Assigned]], Iterator[Inversion]]
    """Starts inverting a batch, and returns its inversions in order. Another thread waits for them, so the call
    itself should not wait for the device."""
    batch: int
    """Recommended number of images per call."""
    begins: Callable[[int], None] = lambda images: None
    """Called with the number of images of a unit before its first batch, for progress reports."""


class MethodSource(Variant, ABC):
    """How codes are found."""

    @abstractmethod
    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load what the method needs onto the viewer's device.

        Args:
            stage: whose settings count: objective, schedule, start, precision, batch.
            viewer: generator, perceptual distance and region.

        Raises:
            ValueError: the generator cannot be inverted by this method.
            WeightsError: weights are missing or damaged.
        """
