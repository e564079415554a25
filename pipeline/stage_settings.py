"""A stage's section of the configuration: the fields of its class, without those that a run gives to every stage."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import BaseModel, create_model, model_validator

from pipeline.config_keys import models_in
from stages.base.stage import GraphStage

FACTS = frozenset(
    ("generator", "perceptual", "image", "region", "spaces", "label", "map_side_px", "truth", "segmenter", "bundles"),
)
"""Names of the fields that a run gives to the stages that have them; they are not settings."""

SHORT_FORMS = {"start": "start_samples", "start_samples": "start"}
"""Pairs of settings, one of which replaces the other."""

AnyGraphStage = TypeVar("AnyGraphStage", bound=GraphStage)


def given(stage: type[GraphStage]) -> frozenset[str]:
    """Return the fields of a stage that no configuration sets."""
    return (FACTS & stage.model_fields.keys()) | stage.derived


@functools.cache
def section_of(stage: type[GraphStage]) -> type[BaseModel]:
    """Return the model of a stage's section: the stage itself if all its fields are settings."""
    if not given(stage):
        return stage
    fields: dict[str, Any] = {
        name: (field.annotation, copy.copy(field))
        for name, field in stage.model_fields.items()
        if name not in given(stage)
    }
    checks: dict[str, Any] = {
        name: model_validator(mode=check.info.mode)(check.func)
        for name, check in stage.__pydantic_decorators__.model_validators.items()
    }
    section = create_model(
        f"{stage.__name__}Settings",
        __config__=stage.model_config,
        __doc__=stage.__doc__,
        __validators__=checks,
        **fields,
    )
    section.declared_in = stage  # type: ignore[attr-defined]  # where readers find the meaning of each field
    return section


def defaults(stage: type[AnyGraphStage]) -> AnyGraphStage:
    """Return a stage's section with its defaults."""
    return cast("AnyGraphStage", section_of(stage)())


def stages_in(config: type[BaseModel]) -> Iterator[tuple[type[GraphStage], bool]]:
    """Yield the stages that have sections in a configuration, and whether each is off without its section."""
    for field in config.model_fields.values():
        for section in models_in(field.annotation):
            stage: type[BaseModel] = getattr(section, "declared_in", section)
            if issubclass(stage, GraphStage):
                yield stage, field.default is None


if TYPE_CHECKING:
    Settings = Annotated[AnyGraphStage, "without what is given"]
else:

    class Settings:
        """`Settings[Invert]` is the section of `Invert`; for a type checker it is the stage, whose fields it has."""

        def __class_getitem__(cls, stage: type[GraphStage]) -> type[BaseModel]:
            return section_of(stage)


def merged(own: Mapping[str, Any], other: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Return plain settings with others over them, section by section; a section of another kind replaces the whole.

    Args:
        own: the settings below, plain or models.
        other: the settings above.
        partial: whether a section of `other` without a `kind` has that of `own`; it has none otherwise.
    """
    result = {name: value for name, value in own.items() if SHORT_FORMS.get(name) not in other}
    for name, value in other.items():
        mine, theirs = plain_section(result.get(name)), plain_section(value)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping) and _is_of_kind(theirs, mine, partial=partial):
            result[name] = merged(mine, theirs, partial=partial)
        else:
            result[name] = value
    return result


def plain_section(section: Any) -> Any:  # noqa: ANN401  # any value
    """Return a model's own settings as plain values, so that defaults do not hide what others set; others as is."""
    return {name: getattr(section, name) for name in section.model_fields_set} if _is_model(section) else section


def _is_model(value: Any) -> bool:  # noqa: ANN401  # any value
    return isinstance(value, BaseModel)


def _is_of_kind(theirs: Mapping[str, Any], mine: Mapping[str, Any], *, partial: bool) -> bool:
    return bool(theirs.get("kind", mine.get("kind") if partial else None) == mine.get("kind"))
