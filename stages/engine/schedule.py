"""The number of steps of an inversion, their size, and what Adam remembers of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

TRACE_POINTS = 50


Beta = Annotated[float, Field(ge=0, lt=1)]


class Schedule(BaseModel):
    """The number of steps, and their size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = 1001  # steps of the optimiser per image
    learning_rate: PositiveFloat = 0.05  # largest rate, between the ramps
    ramp_up: float = Field(default=0.05, ge=0, le=1)  # share of the steps over which the rate grows linearly from 0
    ramp_down: float = Field(default=0.25, ge=0, le=1)  # share of the steps over which it falls along a cosine
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Shares that Adam's means of gradients and of their squares keep in a step; (0.7, 0.9) suits short schedules."""

    added: ClassVar[Mapping[str, object]] = {"betas": (0.9, 0.999)}

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, the first being 0 (Karras et al. 2020; the authors' code)."""
        done = step / self.steps
        up = min(1.0, done / self.ramp_up) if self.ramp_up else 1.0
        down = min(1.0, (1 - done) / self.ramp_down) if self.ramp_down else 1.0
        return self.learning_rate * up * (0.5 - 0.5 * math.cos(math.pi * down))

    def halved(self) -> Schedule:
        """Return the same schedule at half the rate."""
        return self.model_copy(update={"learning_rate": self.learning_rate / 2})

    def traces(self, step: int) -> bool:
        """Return whether a step's loss is kept: about `TRACE_POINTS` of them evenly, and the last."""
        return step % max(1, self.steps // TRACE_POINTS) == 0 or step == self.steps - 1
