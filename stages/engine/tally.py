"""Progress of a unit's inversions, in steps of images, for listeners (`stages.base.progress`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.base.progress import report_progress


@dataclass(eq=False)
class Steps:
    """The steps of one image: those taken, and those of its schedule, known when it starts."""

    unit: int  # for which it was submitted
    taken: int = 0
    whole: int = 0


class Tally:
    """Counts the steps of the latest unit; the rest of the previous one ends alongside it, uncounted.

    Images that leave early or restart count as complete, so that progress only grows.
    """

    def __init__(self) -> None:
        self.unit = 0
        self._images = 0  # expected images of the unit; 0 before the first unit
        self._left = 0  # images of the unit that have left

    def begin(self, images: int) -> None:
        """Start a unit with this number of images, one for each space where an image is inverted in several."""
        self.unit += 1
        self._images, self._left = images, 0

    def left(self, steps: Steps) -> None:
        """Count an image that has left."""
        self._left += steps.unit == self.unit

    def report(self, at_work: Iterable[Steps]) -> None:
        """Record one more step of these images, and report the unit's progress."""
        shares, whole = 0.0, 0
        for steps in at_work:
            steps.taken = min(steps.taken + 1, steps.whole)
            whole = max(whole, steps.whole)
            if steps.unit == self.unit:
                shares += steps.taken / steps.whole
        if self._images and whole:
            done = min(self._images, self._left + shares)
            report_progress(round(done * whole), self._images * whole, "steps")
