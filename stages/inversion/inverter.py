"""What the stages that invert by optimisation share: their settings, and an inverter made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor

from generators.latents import Codes, masks_of, resize_masks
from generators.prior import Prior, cached_prior
from generators.source import GeneratorSource
from stages.base.stage import Stage
from stages.engine.adam import Loss
from stages.engine.batch import Item
from stages.engine.compiled_loss import CompiledLoss
from stages.engine.engine import Engine
from stages.engine.memory import UNMEASURED, Width, measured_width
from stages.engine.schedule import Schedule
from stages.images.image_member import ImageMember
from stages.images.labels import Label, check_label
from stages.inversion.class_start import ClassStarts
from stages.inversion.learnt_start import LearntStart
from stages.inversion.loss import loss_of, start_codes
from stages.inversion.viewer import Viewer
from stages.maps.reduction import fit_reduced, reduced_size
from stages.maps.region import Region, fit, place
from stages.maps.spaces import chosen_spaces
from stages.objective.objective import Objective, Target, prepare_target
from stages.objective.precision import Precision, lowered
from stages.perceptual.source import PerceptualSource


@dataclass(frozen=True)
class Photograph:
    """A photograph as it is inverted: `image_3HW` fills the region and is what measures are of, `seen_3hw` is what the
    loss looks at. Both float32 in [-1, 1], one and the same where the loss looks at the region as it is."""

    image_3HW: Tensor
    seen_3hw: Tensor


@dataclass(frozen=True)
class Inverter(Viewer):
    """A viewer that can also find the codes of a target: it has a prior, a start, an objective and an engine."""

    prior: Prior
    objective: Objective
    schedule: Schedule
    learnt: LearntStart | None = None  # without it, every inversion starts at the mean w
    class_starts: ClassStarts | None = None  # where those of images start whose class is known
    precision: Precision = "fp32"
    compiles: bool = False

    def width(self, wanted: Width) -> int:
        """Return how many images to invert at a time; for `auto` as many as the device has room for.

        The memory of a CUDA device is measured, with images in which every space in use has a delta: none takes more,
        uncompiled. The CPU's is not, its width is `UNMEASURED`.
        """
        device = self.prior.mean_w.device
        if isinstance(wanted, int):
            return wanted
        if device.type != "cuda":
            return UNMEASURED
        image_13HW = torch.zeros(1, 3, *self.region.size, device=device)
        shapes = self.generator.feature_shapes
        masks = {s: torch.ones(1, 1, *shapes[s][1:], device=device) for s in self.spaces if s in shapes}
        return measured_width(self.loss(), self.item(self.target(image_13HW), masks))

    def engine(self, width: int) -> Engine:
        """Return an engine that inverts the items of this inverter, `width` at a time."""
        loss = self.loss()
        return Engine(CompiledLoss(loss, self.prior.mean_w.device) if self.compiles else loss, width)

    def loss(self) -> Loss:
        """Return what is minimised, as a function of codes and targets."""
        parts = (self.generator, self.perceptual, self.prior, self.objective, self.region)
        return loss_of(*parts, self.precision)

    def item(self, target: Target, masks: Mapping[str, Tensor], label: int | None = None) -> Item:
        """Return the inversion of one target for an engine; target and masks, all of which act, are batches of 1."""
        start = self.start(target, masks, label)
        return Item(target, start, self.schedule, frozenset(start.deltas))

    def fitted(self, photograph_HW3: NDArray[np.uint8]) -> Photograph:
        """Return a photograph `[H, W, 3]`, of any size, as this inverter needs it, on the CPU."""
        image_3HW = fit(photograph_HW3, self.region)
        if reduced_size(self.region.size, self.objective.side_px) == self.region.size:
            return Photograph(image_3HW, image_3HW)
        return Photograph(image_3HW, fit_reduced(photograph_HW3, self.region, self.objective.side_px))

    def target(self, image_N3HW: Tensor) -> Target:
        """Return targets `[N, 3, h, w]` in [-1, 1], of the region's or the loss's size, as the objective sees them.

        Their features are computed in the precision of the inversion, so that an image equal to its target has no
        distance from it.
        """
        with lowered(self.precision, image_N3HW.device):
            return prepare_target(image_N3HW, self.perceptual, self.objective)

    def start(self, target: Target, masks: Mapping[str, Tensor], label: int | None = None) -> Codes:
        """Return the codes that inversions of targets start from: the learnt w or the mean, zero deltas.

        With `label`, all targets are of that class, and so are the draws of which the start is made.
        """
        codes = start_codes(self.generator, self.prior, masks, len(target.image))
        if label is not None:
            assert self.class_starts is not None, "made where labels are configured"
            w_ND = self.class_starts.w_of(label, self.perceptual, target)
        elif self.learnt is not None:
            w_ND = self.learnt.w_of(self.perceptual, target)
        else:
            return codes
        return replace(codes, w_plus=w_ND[:, None].expand_as(codes.w_plus).clone())

    def masks(self, assignment_NHW: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the masks of assignments to the region, at feature sizes, rounded to what is stored (float16).

        Nothing acts outside the region; spaces that no image uses are left out.
        """
        chosen_N1HW = torch.from_numpy(assignment_NHW)[:, None]
        canvas_NHW = place(chosen_N1HW, self.region, self.generator.resolution)[:, 0]
        masks = masks_of(canvas_NHW, self.spaces, self.generator.feature_shapes)
        return {space: mask.half().float().to(self.prior.mean_w.device) for space, mask in masks.items()}

    def everywhere(self, space: str) -> dict[str, Tensor]:
        """Return the mask with which a feature space acts in one image's whole region; none for the first space."""
        shape = self.generator.feature_shapes.get(space)
        if shape is None:
            return {}
        whole_11HW = place(torch.ones(1, 1, *self.region.size), self.region, self.generator.resolution)
        return {space: resize_masks(whole_11HW, shape[1:]).to(self.prior.mean_w.device)}


class InvertingStage(Stage):
    """A stage that inverts by optimisation; its fields configure the inverter."""

    generator: GeneratorSource
    perceptual: PerceptualSource
    image: ImageMember = ImageMember()
    region: Region | None = None  # active part of the generator's canvas; None is all of it
    spaces: tuple[str, ...] | None = None  # some of the generator's, most editable first; None is all of them
    label: Label | None = None  # class of every image, or where its sample says it; None starts at the mean of classes
    objective: Objective = Objective()
    schedule: Schedule = Schedule()
    start_samples: NonNegativeInt = 0
    """Draws of w from whose pictures it is learnt where an inversion starts (`LearntStart`); 0 starts at the mean w, as
    the authors' code does without an encoder."""
    batch: Width = 16
    """Images, or images in one space, that are optimised together."""
    precision: Precision = "fp32"
    """Of the networks' convolutions and products while they invert; images and measures are made in float32."""
    compile: bool = False
    """Whether torch compiles the loss, into CUDA graphs on a GPU. It takes minutes once, and pays in long runs."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"batch", "compile"})

    def viewer(self, device: torch.device) -> Viewer:
        """Load the two networks onto `device`, and nothing else: enough to show and measure what was inverted.

        Raises:
            ValueError: region, spaces or label are not the generator's.
        """
        generator = self.generator.load(device)
        check_label(self.label, generator.label_dim)
        region = (self.region or Region.whole(generator.resolution)).inside(generator.resolution)
        spaces = chosen_spaces(self.spaces, generator.spaces)
        return Viewer(generator, self.perceptual.load(device), region, spaces)

    def inverter(self, device: torch.device) -> Inverter:
        """Load everything that inverting takes onto `device`; raises `ValueError` as `viewer` does."""
        viewer = self.viewer(device)
        generator, perceptual, objective = viewer.generator, viewer.perceptual, self.objective
        prior = cached_prior(generator, published_mean=objective.published_mean, shrinkage=objective.shrinkage)

        def learn(label: Tensor | None = None) -> LearntStart:
            return LearntStart.from_draws(
                generator, perceptual, objective, viewer.region, self.start_samples, label=label
            )

        if device.type == "cuda" and self.precision != "fp32":  # the layout that tensor cores take; slower on a CPU
            generator.to(memory_format=torch.channels_last)
            perceptual.to(memory_format=torch.channels_last)
        return Inverter(
            generator,
            perceptual,
            viewer.region,
            viewer.spaces,
            prior.to(device),
            objective,
            self.schedule,
            learnt=learn() if self.start_samples and self.label is None else None,
            class_starts=(
                None if self.label is None else ClassStarts(generator, learn if self.start_samples else None)
            ),
            precision=self.precision,
            compiles=self.compile,
        )
