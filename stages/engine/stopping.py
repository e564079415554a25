"""How many steps an image needs: fewer where its loss no longer falls, and fewer where it is predicted to be easy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from stages.engine.schedule import Schedule


class Finish(BaseModel):
    """When an image goes over to the ramp down: where its loss hardly falls any more at the full rate.

    Windows follow each other, and the lowest loss in each is compared with that of the one before: at the full rate
    single losses jump.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: PositiveInt  # in steps, the first one behind the ramp up
    improvement: float = Field(ge=0, lt=1)  # relative, from window to window; an image that improves by less finishes


@dataclass(eq=False)
class Watch:
    """The losses of one image at the full rate, looked at window by window."""

    finish: Finish
    _terms: list[Tensor] = field(default_factory=list)  # of this window
    _before: float = math.inf  # the lowest loss of the window before

    def stalls(self, terms_T: Tensor) -> bool:
        """Take the loss terms of one more step, and say whether the loss has stopped falling, or is not finite.

        Something is read from the device at the end of a window, and only then.
        """
        self._terms.append(terms_T)
        if len(self._terms) < self.finish.window:
            return False
        lowest = float(torch.stack(self._terms).sum(dim=1).amin())
        stalls = not lowest < (1 - self.finish.improvement) * self._before
        self._terms, self._before = [], lowest
        return stalls


class Budget(BaseModel):
    """What share of the steps an image is given, by its predicted error in the spaces that it was assigned.

    It grows linearly from `least` at the error `easy`, and below, to all of them at `hard`, and above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: float = Field(gt=0, le=1)  # share of the steps that the easiest images take
    easy: NonNegativeFloat  # mean over the image, in the perceptual distance, as `hard`
    hard: PositiveFloat  # from this error on, images take every step

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.hard <= self.easy:
            raise ValueError(f"hard must be a larger error than easy, got {self.hard:g} and {self.easy:g}")
        return self

    def of(self, schedule: Schedule, error: float) -> Schedule:
        """Return the schedule of an image with this predicted error."""
        difficulty = min(1.0, max(0.0, (error - self.easy) / (self.hard - self.easy)))
        share = self.least + (1 - self.least) * difficulty
        return schedule.model_copy(update={"steps": max(1, round(share * schedule.steps))})
