"""Optimisation: w_plus and the masked deltas together, by Adam from a start (thesis Sec. 3.3, Eq. 3.4 to 3.8)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from stages.engine.batch import Item
from stages.engine.engine import in_turn
from stages.engine.result import Inversion
from stages.inversion.methods.method import Assigned, Finder, MethodSource
from stages.inversion.viewer import Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class Optimise(MethodSource):
    """Optimise w_plus and all deltas of an image together, from `start`, over the steps of `schedule`."""

    kind: Literal["optimise"] = "optimise"

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return nothing: stages were hashed without a method when this was the only way."""
        return {}

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load prior and start; the engine holds `batch` images, which enter and leave one by one."""
        inverter = stage.inverter_with(viewer)
        width = inverter.width(stage.batch)
        engine = inverter.engine(width)

        def begin(image: Assigned) -> Item:
            return inverter.item(image.photograph, inverter.masks(image.assignment_HW[None]))

        def find(images: Sequence[Assigned]) -> Iterator[Inversion]:
            return in_turn([engine.submit(functools.partial(begin, image)) for image in images])

        return Finder(find, width, engine.expect)
