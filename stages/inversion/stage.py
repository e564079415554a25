"""The common parts of stages that invert: their settings, and the networks that these name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, NonNegativeInt, model_validator
from torch import Tensor

from generators.classes import prior_mean_of_class
from generators.generator import Generator
from generators.prior import cached_prior
from generators.source import GeneratorSource
from stages.base.stage import Sample, Stage
from stages.engine.compiled_loss import repays_compiling
from stages.engine.memory import Width
from stages.engine.schedule import Schedule
from stages.images.image_member import ImageMember
from stages.images.labels import Label, check_label, class_of
from stages.inversion.inverter import Inverter
from stages.inversion.starts import Mean, Start, start_of_samples
from stages.inversion.viewer import Photograph, Viewer
from stages.maps.region import Region
from stages.maps.spaces import chosen_spaces
from stages.objective.objective import Objective
from stages.objective.precision import Precision, computed_in
from stages.perceptual.source import PerceptualSource


def _with_class_prior(settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
    """Return settings that say whether classes have their own priors, if images have classes."""
    if isinstance(settings, Mapping) and settings.get("label") is not None and settings.get("class_prior") is None:
        return {**settings, "class_prior": True}
    return settings


THESIS = "thesis"
"""The name of the published schedule, which is the default of every stage."""


def with_named_schedule(settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
    """Return settings without a schedule if it is that of the thesis, given by name: stages have it by default."""
    if not isinstance(settings, Mapping) or settings.get("schedule") != THESIS:
        return settings
    return {name: value for name, value in settings.items() if name != "schedule"}


def no_other_name(schedule: object) -> object:
    """Return a schedule; raise `ValueError` if it is a name."""
    if isinstance(schedule, str):
        message = f"no schedule is named {schedule!r}: write {THESIS}, or steps and learning_rate"
        raise ValueError(message)  # noqa: TRY004 - pydantic reports no TypeError
    return schedule


NamedSchedule = Annotated[Schedule, BeforeValidator(no_other_name, json_schema_input_type=Schedule | Literal["thesis"])]


class InvertingStage(Stage):
    """A stage that inverts by optimisation."""

    generator: GeneratorSource
    perceptual: PerceptualSource
    image: ImageMember = ImageMember()
    region: Region | None = None  # active part of the generator's canvas; None is all of it
    spaces: tuple[str, ...] | None = None  # some of the generator's, most editable first; None is all of them
    label: Label | None = None  # class of every image, or where its sample says it; None starts at the mean of classes
    objective: Objective = Objective()
    schedule: NamedSchedule = Schedule()
    """Steps per image, and their size; `thesis` is the published schedule."""
    start: Start = Mean()
    """Where an inversion starts: at the `mean` w, one `learnt` from draws, an `encoder`'s, or that of an earlier
    `bundle`; deltas start at zero.
    `start_samples: N` is short for `start: {kind: learnt, samples: N}`, and with 0 for the mean."""
    batch: Width = 16
    """Images (error maps: images in one space) optimised together; changes a result by rounding at most. `auto`: as
    many as the memory of a GPU has room for, up to 64, if no other worker uses it; 16 where there is no GPU. Where
    memory turns out too small, the number is halved."""
    class_prior: bool | None = None
    """Whether the prior of an image whose class is known (`label`) has the mean of its class; True by default."""
    precision: Precision = "auto"
    """Precision of the networks during inversion; images and measures are in float32. `auto` is bf16 on hardware made
    for it (GPUs from Ampere on, CPUs after a short measurement), otherwise fp32. Receipts say which it was. `fp32`
    gives equal numbers on machines of both kinds."""
    compile: bool | Literal["auto"] = "auto"
    """Let torch compile the loss, into CUDA graphs on a GPU: minutes once, then faster steps; changes rounding. `auto`
    does so if what is left for a worker takes long enough to repay it. Without a compiler it continues uncompiled."""
    samples_ahead: NonNegativeInt = 0
    """Number of samples that are left for a worker."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"batch", "compile", "samples_ahead"})
    derived: ClassVar[frozenset[str]] = frozenset({"samples_ahead"})
    added: ClassVar[Mapping[str, object]] = {"class_prior": None}
    stands_for: ClassVar[Mapping[str, Mapping[object, object]]] = {"precision": {"auto": "fp32"}}

    _short_start = model_validator(mode="before")(start_of_samples)
    _class_prior = model_validator(mode="before")(_with_class_prior)
    _named_schedule = model_validator(mode="before")(with_named_schedule)

    def precision_on(self, device: torch.device) -> str:
        """Return the precision in which it inverts on a device."""
        return computed_in(self.precision, device)

    def viewer(self, device: torch.device) -> Viewer:
        """Load the two networks onto `device`, and nothing else: enough to show and measure inversions.

        Raises:
            ValueError: region, spaces or label are not the generator's.
        """
        generator = self.generator.load(device)
        check_label(self.label, generator.label_dim)
        region = (self.region or Region.whole(generator.resolution)).inside(generator.resolution)
        spaces = chosen_spaces(self.spaces, generator.spaces)
        return Viewer(generator, self.perceptual.load(device), region, spaces)

    def inverter(self, device: torch.device) -> Inverter:
        """Load everything that inverting needs onto `device`; raise `ValueError` as `viewer` does."""
        return self.inverter_with(self.viewer(device))

    def inverter_with(self, viewer: Viewer) -> Inverter:
        """Return an inverter that uses the networks of a viewer."""
        generator, objective, device = viewer.generator, self.objective, viewer.device
        prior = cached_prior(generator, published_mean=objective.published_mean, shrinkage=objective.shrinkage).to(
            device
        )
        return Inverter(
            **vars(viewer),
            prior=prior,
            objective=objective,
            schedule=self.schedule,
            begin=self.start.load(viewer, prior, objective, labelled=self.label is not None),
            precision=computed_in(self.precision, device),
            compiles=self._compiles(viewer),
            prior_mean_of=self._prior_means(generator) if self.label is not None and self.class_prior else None,
        )

    def steps_of_a_sample(self, spaces: int) -> int:
        """Return how many steps it takes with a sample, given the number of spaces."""
        return self.schedule.steps

    def _compiles(self, viewer: Viewer) -> bool:
        if self.compile != "auto":
            return self.compile
        steps = self.samples_ahead * self.steps_of_a_sample(len(viewer.spaces))
        return repays_compiling(steps, viewer.generator.resolution, viewer.device)

    def _prior_means(self, generator: Generator) -> Callable[[int], Tensor]:
        """Return the function that gives the mean of the prior of a class, drawn when it is first needed."""
        published = self.objective.published_mean
        return functools.cache(functools.partial(prior_mean_of_class, generator, published_mean=published))

    def photograph(self, sample: Sample, pixels_HW3: NDArray[np.uint8], viewer: Viewer) -> Photograph:
        """Return a sample's picture fitted for inversion.

        Raises:
            BadSampleError: its class is missing or wrong, or the codes that it should start from are missing.
        """
        label = class_of(sample, self.label, viewer.generator.label_dim)
        given = self.start.given(sample)
        return replace(viewer.fitted(pixels_HW3, self.objective.side_px, sample.key, label), given=given)
