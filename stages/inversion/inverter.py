"""Finding codes by optimisation: a target and a start for each photograph, and one loss that the engine lowers.

From top to bottom, this is the processing of a photograph (thesis Sec. 3.3): `target` prepares what its pictures are
compared with, `item` gives it codes to start from, and `engine` takes Adam's steps on the loss with many of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes, zero_deltas
from generators.prior import Prior
from stages.engine.batch import Item
from stages.engine.compiled_loss import CompiledLoss
from stages.engine.engine import Engine
from stages.engine.memory import UNMEASURED, Width, measured_width
from stages.engine.schedule import Schedule
from stages.inversion.starts.start import Begin, in_every_layer
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.loss import Loss, loss_of
from stages.objective.objective import Objective, Target, prepare_target
from stages.objective.precision import Computed, in_precision, lowered

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual


@dataclass(frozen=True)
class Inverter(Viewer):
    """A viewer that can also find codes: it has a prior, an objective, a schedule and a start."""

    prior: Prior
    objective: Objective
    schedule: Schedule
    begin: Begin
    precision: Computed = "fp32"
    compiles: bool = False
    prior_mean_of: Callable[[int], Tensor] | None = None  # mean of the prior of a class; None if all share the prior's

    @functools.cached_property
    def optimised(self) -> tuple[Generator, Perceptual]:
        """The two networks as the loss uses them, in its precision; images and measures are made by the others."""
        return in_precision(self.generator, self.precision), in_precision(self.perceptual, self.precision, "backbone.")

    def target(self, image_N3HW: Tensor) -> Target:
        """Return images `[N, 3, h, w]` in [-1, 1], of the region's or the loss's size, as the objective compares them.

        Their features are computed in the precision of the inversion, so that an image equal to its target has no
        distance from it.
        """
        with lowered(self.precision, image_N3HW.device):
            return prepare_target(image_N3HW, self.optimised[1], self.objective)

    def target_of(self, photograph: Photograph, target: Target | None = None) -> Target:
        """Return the target of a photograph, with the mean of its prior if its class has its own.

        Args:
            photograph: the photograph to invert.
            target: what its pictures are compared with, if it has been prepared.
        """
        if target is None:
            target = self.target(photograph.seen_3hw[None].to(self.device))
        if self.prior_mean_of is None or photograph.label is None:
            return target
        return replace(target, prior_mean=self.prior_mean_of(photograph.label)[None])

    def item(
        self,
        photograph: Photograph,
        masks: Mapping[str, Tensor],
        target: Target | None = None,
        *,
        assignment_HW: NDArray[np.uint8] | None = None,
        tied: bool = False,
    ) -> Item:
        """Return the inversion of a photograph, for an engine: it starts at the codes of `begin`.

        Args:
            photograph: the photograph to invert.
            masks: `[1, 1, h, w]` of the feature spaces that act in it, on the device.
            target: of the photograph, if it has been prepared.
            assignment_HW: uint8 index into the spaces, from which the masks were made; None is the first everywhere.
            tied: whether the rows of w_plus stay one code (the space W), from the mean of the start's rows.
        """
        target = self.target_of(photograph, target)
        if assignment_HW is None:
            assignment_HW = np.zeros(self.region.size, np.uint8)
        start = self.begin(photograph, target, assignment_HW)
        if tied:
            mean_11D = start.w_plus.mean(dim=1, keepdim=True)
            start = replace(start, w_plus=mean_11D.repeat(1, start.w_plus.shape[1], 1))
        return replace(self._starting(target, start, masks), tied=tied)

    def loss(self) -> Loss:
        """Return the loss (Eq. 3.8), as a function of codes and targets."""
        return loss_of(*self.optimised, self.prior, self.objective, self.region, self.precision)

    def engine(self, width: int) -> Engine:
        """Return an engine that inverts the items of this inverter, `width` at a time."""
        loss = self.loss()
        return Engine(CompiledLoss(loss, self.device) if self.compiles else loss, width)

    def width(self, wanted: Width) -> int:
        """Return how many images to invert at a time; for `auto` as many as the device has room for.

        The memory of a CUDA device is measured, with images in which every space in use has a delta: none takes more,
        uncompiled. The CPU's is not; its width is `UNMEASURED`.
        """
        if isinstance(wanted, int):
            return wanted
        if self.device.type != "cuda":
            return UNMEASURED
        target = self.target(torch.zeros(1, 3, *self.region.size, device=self.device))
        shapes = self.generator.feature_shapes
        masks = {s: torch.ones(1, 1, *shapes[s][1:], device=self.device) for s in self.spaces if s in shapes}
        start = Codes(in_every_layer(self.prior.mean_w, self.generator))
        return measured_width(self.loss(), self._starting(target, start, masks))

    def _starting(self, target: Target, start: Codes, masks: Mapping[str, Tensor]) -> Item:
        deltas = zero_deltas(masks, self.generator.feature_shapes, start.w_plus.device)
        for space in deltas.keys() & start.deltas.keys():  # where nothing acts, a delta would only cost (Eq. 3.7)
            deltas[space] = torch.where(masks[space] > 0, start.deltas[space], deltas[space])
        return Item(target, Codes(start.w_plus, deltas, masks), self.schedule, frozenset(deltas))
