"""Optimisation: w_plus and the masked deltas together, by Adam from a start (thesis Sec. 3.3, Eq. 3.4 to 3.8)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from generators.generator import Generator
from stages.engine.batch import Item
from stages.engine.engine import in_turn
from stages.engine.memory import Width
from stages.inversion.inverter import Inverter
from stages.inversion.methods.method import Assigned, Finder, Found, MethodSource
from stages.inversion.methods.space import MAPS, W, assign_to, check_space, in_space
from stages.inversion.viewer import Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class Optimise(MethodSource):
    """Optimise w_plus and all deltas of an image together, from `start`, over the steps of `schedule`."""

    kind: Literal["optimise"] = "optimise"
    spaces: str = MAPS
    """`maps`: each pixel in the space it was assigned (SAM); or one space for the whole image: `W` (one code for all
    layers), `W+`, `F4`, …"""

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"optimisation{in_space(self.spaces)}"

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return nothing for the default: stages were hashed without a method when it was the only way."""
        return {} if self == Optimise() else super().hashed_as(name)

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `SettingError` if the run has no such space."""
        check_space(self.spaces, generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load prior and start; the engine holds `batch` images, which enter and leave one by one."""
        self.check_fits(viewer.generator, viewer.spaces)
        return optimiser(stage.inverter_with(viewer), self.spaces, stage.batch)


def optimiser(inverter: Inverter, space: str, batch: Width) -> Finder:
    """Return the method that lowers an inverter's loss, from its start, in the spaces of maps or in one space."""
    width = inverter.width(batch)
    engine = inverter.engine(width)
    tied = space == W

    def begin(image: Assigned) -> Item:
        assignment_HW = image.assignment_HW
        masks = inverter.masks(assignment_HW[None])
        return inverter.item(image.photograph, masks, assignment_HW=assignment_HW, tied=tied)

    def find(images: Sequence[Assigned]) -> Iterator[Found]:
        return map(Found.from_inversion, in_turn([engine.submit(functools.partial(begin, image)) for image in images]))

    return Finder(find, width, engine.expect, assign_to(space, inverter.spaces))
