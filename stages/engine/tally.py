"""How far a unit's inversions are, counted in steps of images, for whoever watches (`stages.base.progress`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.base.progress import report_progress


@dataclass(eq=False)
class Steps:
    """The steps of one image: how many it took, and how many its schedule has, known when it begins."""

    unit: int  # that it was submitted for
    taken: int = 0
    whole: int = 0


class Tally:
    """Adds up the steps of the unit that was begun last; what is left of the one before ends beside it, uncounted.

    Images that leave early, or begin again, count as whole ones: what is told only ever grows.
    """

    def __init__(self) -> None:
        self.unit = 0
        self._images = 0  # that the unit is expected to have; 0 until one is begun
        self._left = 0  # images of the unit that have left

    def begin(self, images: int) -> None:
        """Begin a unit of so many images, one for each space where an image is inverted in several."""
        self.unit += 1
        self._images, self._left = images, 0

    def left(self, steps: Steps) -> None:
        """Count an image that has left."""
        self._left += steps.unit == self.unit

    def report(self, at_work: Iterable[Steps]) -> None:
        """Take note of one more step of these images, and tell how far the unit is."""
        shares, whole = 0.0, 0
        for steps in at_work:
            steps.taken = min(steps.taken + 1, steps.whole)
            whole = max(whole, steps.whole)
            if steps.unit == self.unit:
                shares += steps.taken / steps.whole
        if self._images and whole:
            done = min(self._images, self._left + shares)
            report_progress(round(done * whole), self._images * whole, "steps")
