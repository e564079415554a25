"""The start of the authors' code without an encoder: the mean w, of all draws or of those of the image's class."""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from generators.classes import mean_w_of_class
from generators.latents import Codes
from generators.prior import Prior
from stages.engine.schedule import Schedule
from stages.inversion.starts.start import Begin, StartSource, in_every_layer
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.objective import Objective, Target


class Mean(StartSource):
    """Start at the mean w; if the class of an image is known, at the mean w of its class."""

    schedule: ClassVar[Schedule] = Schedule()

    kind: Literal["mean"] = "mean"

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return the setting by which this start was chosen before it had a name."""
        return {"start_samples": 0}

    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Return the start. The mean of a class is drawn when the first image of the class starts."""
        mean_w_of = functools.cache(functools.partial(mean_w_of_class, viewer.generator))

        def begin(photograph: Photograph, target: Target, assignment_HW: NDArray[np.uint8]) -> Codes:
            w_D = prior.mean_w if photograph.label is None else mean_w_of(photograph.label)
            return Codes(in_every_layer(w_D, viewer.generator))

        return begin
