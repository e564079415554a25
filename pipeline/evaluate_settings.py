"""The section `evaluate` of a configuration: methods that are compared on the same images (thesis Table 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.config_keys import AS_ELSEWHERE
from pipeline.stage_settings import Settings, defaults, merged, plain_section
from stages.invert import Invert
from stages.refine_maps import RefineMaps

Ablation = Literal["refinement", "delta_term", "maps"]


class ComparedMethod(BaseModel):
    """One row of the tables: how images are inverted, as differences from the run's own sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # of the row
    invert: Annotated[Settings[Invert], AS_ELSEWHERE] = defaults(Invert)  # settings that differ from the run's `invert`
    refine_maps: Annotated[Settings[RefineMaps], AS_ELSEWHERE] = defaults(RefineMaps)
    """Settings that differ from the run's `refine_maps`."""
    ablates: Ablation | None = None
    """The part of the method that the settings switch off: `refinement`, `delta_term` (L_F), or `maps` (classes
    instead). It is then compared with the first method that is SAM."""
    counts_as: Literal["encoder", "hybrid"] | None = None
    """What the row is in the thesis, where its method does not say so: a SAM encoder with everything in the first space
    is an `encoder`."""
    samples: PositiveInt | None = None  # images of this method alone, if fewer; its row says how many


class Evaluate(BaseModel):
    """Methods that are compared, and on which images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: Annotated[tuple[ComparedMethod, ...], Field(min_length=1)]
    """The rows, as [{name: W+, invert: {method: {kind: optimise, spaces: W+}}}, …] (docs/evaluation.md)."""
    samples: PositiveInt = 1000  # held-out images; 1,000 as in the thesis
    pictures: NonNegativeInt = 6  # images of the grid of methods and images
    resamples: PositiveInt = 10_000  # resamples of the bootstrap
    seed: NonNegativeInt = 0  # of the bootstrap

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [method.name for method in self.methods]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two methods have one name: {', '.join(repeated)}; rename one")
        return self


def with_whole_methods(settings: Any) -> Any:  # noqa: ANN401  # what a configuration is validated from
    """Return settings in which the sections of each compared method are whole: the run's, with the differences.

    A section inside replaces the run's if it is of another `kind`, and is merged with it otherwise.
    """
    section = settings.get("evaluate") if isinstance(settings, Mapping) else None
    methods = section.get("methods") if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping) or not isinstance(methods, list | tuple):
        return settings
    return {**settings, "evaluate": {**section, "methods": [_whole(settings, method) for method in methods]}}


def _whole(settings: Mapping[str, Any], method: Any) -> Any:  # noqa: ANN401  # what a method is validated from
    if not isinstance(method, Mapping):
        return method
    return {**method, **dict(_sections(settings, method))}


def _sections(settings: Mapping[str, Any], method: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("invert", "refine_maps"):
        own, differences = plain_section(settings.get(name)), plain_section(method.get(name))
        if isinstance(own, Mapping) and (differences is None or isinstance(differences, Mapping)):
            yield name, merged(own, differences or {}, partial=True)
