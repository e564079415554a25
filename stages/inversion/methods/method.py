"""The contract of a method: a setting that finds the codes of photographs whose pixels have been assigned spaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from generators.generator import Generator
from stages.base.variant import Variant
from stages.engine.result import Inversion, fate
from stages.inversion.viewer import Photograph, Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


@dataclass(frozen=True)
class Assigned:
    """A photograph, and the space of each pixel of the region: `[H, W]` uint8 index into the spaces."""

    photograph: Photograph
    assignment_HW: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a method for one image: its codes, and what is recorded of how they were found."""

    inversion: Inversion
    steps: int  # taken, of the attempt kept; passes of an encoder
    loss: float | None  # the last that was computed; None if the method computes none
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Stored with the codes, such as the change of a tuned generator (`stages.inversion.tuned`)."""
    reason: str = ""
    """Why there is no result; empty if there is one."""

    @classmethod
    def from_inversion(cls, inversion: Inversion) -> Found:
        """Return the result of an optimisation."""
        loss_K, steps_K = inversion.trace.terms["total"][:, 0], inversion.trace.steps
        reason = f"the inversion {fate(inversion)}" if inversion.diverged.any() else ""
        return cls(inversion, int(steps_K[-1]) + 1, float(loss_K[-1]), reason=reason)


def as_assigned(assignment_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an assignment unchanged."""
    return assignment_HW


@dataclass(frozen=True)
class Finder:
    """A method whose networks are loaded."""

    find: Callable[[Sequence[Assigned]], Iterator[Found]]
    """Starts inverting a batch, and returns its results in order. Another thread waits for them, so the call
    itself should not wait for the device."""
    batch: int
    """Recommended number of images per call."""
    begins: Callable[[int], None] = lambda images: None
    """Called with the number of images of a unit before its first batch, for progress reports."""
    assign: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = as_assigned
    """Returns the assignment that the method uses, given that of the maps; it is the one recorded."""
    together: bool = False
    """Whether all images of a batch are done at once, so that their pictures are made and measured in one pass too."""


class MethodSource(Variant, ABC):
    """How codes are found."""

    tunes: ClassVar[bool] = False
    """Whether it tunes the generator, so that its results hold the change of one."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name of the method with what decides it, in reports."""

    def check_settings(self, stage: InvertingStage) -> None:
        """Raise `ValueError` if other settings of the stage contradict the method."""

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `SettingError` or `GeneratorError` if the method cannot invert in a generator.

        Args:
            generator: of the run.
            spaces: of the run, most editable first.
        """

    @abstractmethod
    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load what the method needs onto the viewer's device.

        Args:
            stage: whose settings count: objective, schedule, start, precision, batch.
            viewer: generator, perceptual distance and region.

        Raises:
            SettingError: the generator cannot be inverted by this method.
            WeightsError: weights are missing or damaged.
        """
