"""The contract of a start: a setting that gives the codes of each photograph before the first step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior
from stages.base.stage import Sample
from stages.base.variant import Variant
from stages.engine.schedule import Schedule
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.objective import Objective, Target

Begin = Callable[[Photograph, Target, NDArray[np.uint8]], Codes]
"""Returns the codes from which the inversion of one photograph starts, float32 on the device, without masks.

The third argument is the space of each pixel of the region, `[H, W]` uint8 index into the viewer's spaces. Deltas that
the codes lack start at zero, and others that the photograph does not use are ignored.
"""


class StartSource(Variant, ABC):
    """Where inversions start."""

    schedule: ClassVar[Schedule]
    """The schedule of inversions from there (`invert.schedule: null`); `docs/methods.md` has the loss it reaches."""

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` or `StageError` if inversions in a generator cannot start there.

        Args:
            generator: of the run.
            spaces: of the run, most editable first.
        """

    def given(self, sample: Sample) -> Tensor | None:
        """Return the codes that a sample brings for its start, `[num_ws or 1, w_dim]` float32; None if it needs none.

        Raises:
            BadSampleError: the start needs codes of this sample, and there are none.
        """
        return None

    @abstractmethod
    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Load or compute what the start needs, and return the function that starts an inversion.

        Args:
            viewer: generator, perceptual distance and region of the inversion.
            prior: of the generator, on its device.
            objective: of the inversion; it makes the targets passed to the function.
            labelled: whether photographs have a class.

        Raises:
            ValueError: the generator cannot have this start.
            WeightsError: weights are missing or damaged.
        """


def in_every_layer(w_D: Tensor, generator: Generator) -> Tensor:
    """Return one w `[w_dim]` as w_plus `[1, num_ws, w_dim]` float32."""
    return w_D.float().expand(1, generator.num_ws, -1).clone()


def one_hot(label: int, generator: Generator) -> Tensor:
    """Return a class in a conditional generator's form, `[label_dim]` float32."""
    return F.one_hot(torch.tensor(label), generator.label_dim).float()
