"""The settings of a published result: kept with the pointer, without those of a single machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config import RunConfig
from pipeline.errors import RunError
from pipeline.plan.graph import GRAPH
from pipeline.stage_settings import merged
from stages.base.variant import Variant

LOCAL: dict[str, Any] = {
    **dict.fromkeys(("input", "output", "folder", "compute", "storage", "true_edits", "evaluate"), True),
    **{stage.name: True for stage in GRAPH.stages if stage.on_demand or stage.name in GRAPH.optional},
    "generator": {"checkpoint", "sha256"},
}
"""Settings that decide no result, or name a place on this machine."""
LATER: dict[str, Any] = {
    "segmenter": {"kind": "trained"},
    "bundles": {"max_loss_db": 0.05, "reconstructions": False},
}
"""Settings that earlier versions lacked, with what they did: omitted, so that earlier published files stay the same."""


def _formerly_of(stage: type[BaseModel]) -> dict[str, Any]:
    """Return the settings of a stage that earlier versions lacked, with what it did: defaults of unions among them."""
    variants = {name: field.default for name, field in stage.model_fields.items() if isinstance(field.default, Variant)}
    unnamed = {
        name: default.model_dump()
        for name, default in variants.items()
        if name not in LATER and not default.hashed_as(name)
    }
    return {**getattr(stage, "added", {}), **unnamed}


ADDED = {stage.name: before for stage in GRAPH.stages if stage.name not in LOCAL if (before := _formerly_of(stage))}
"""The same for settings of stages."""

INDIFFERENT = {stage.name: frozenset(getattr(stage, "indifferent", ())) for stage in GRAPH.stages}
"""Settings of stages that change no result; they are published, and a different value publishes nothing."""


def portable_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide results, as plain values; paths of weights are omitted."""
    plain: dict[str, Any] = json.loads(json.dumps(_without_paths(_plain(config, LOCAL))))
    return {name: value for name, value in plain.items() if name not in LATER or LATER[name] != value}


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return published settings without those that change no result."""
    return {
        name: {key: item for key, item in value.items() if key not in INDIFFERENT.get(name, ())}
        if isinstance(value, Mapping)
        else value
        for name, value in settings.items()
    }


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with the settings of a published result; places and weights stay this machine's.

    Raises:
        RunError: the published result needs weights that the configuration does not name.
    """
    later = {name: value for name, value in LATER.items() if name not in settings}
    own = merged(_plain(config) | {"generator": dict(config.generator)}, _before(config))
    own = merged(own, later | ADDED)
    try:
        return RunConfig.model_validate(merged(own, settings))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RunError(
            f"what is published was made with other settings, and {key} of it is not in this configuration; give the "
            "configuration of that run"
        ) from error


def _plain(config: RunConfig, exclude: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings as plain values, under their names in fingerprints."""
    plain = config.model_dump(exclude=exclude)
    return {name: _as_hashed(getattr(config, name), value) for name, value in plain.items()}


def _as_hashed(section: object, plain: Any) -> Any:  # noqa: ANN401  # any value of a configuration
    if not (isinstance(section, BaseModel) and isinstance(plain, Mapping)):
        return plain
    settings: dict[str, Any] = {}
    stage = getattr(section, "declared_in", section)
    added, counted = getattr(stage, "added", {}), getattr(stage, "stands_for", {})
    for name, value in plain.items():
        if name in added and value == added[name]:
            continue
        if name in counted:
            settings[name] = counted[name].get(value, value)
            continue
        variant = getattr(section, name)
        hashed = variant.hashed_as(name) if isinstance(variant, Variant) else {name: value}
        settings |= {name: _without_added(variant, value)} if name in hashed else hashed
    return settings | dict(getattr(stage, "formerly", {}))


def _without_added(model: object, plain: Any) -> Any:  # noqa: ANN401  # any value of a configuration
    """Return the plain values of a model inside a section, without settings that earlier versions lacked."""
    if not (isinstance(model, BaseModel) and isinstance(plain, Mapping)):
        return plain
    added = getattr(model, "added", {})
    return {
        name: _without_added(getattr(model, name), value)
        for name, value in plain.items()
        if not (name in added and value == added[name])
    }


def _before(settings: object) -> dict[str, Any]:
    """Return what the models inside a model did before they had the settings that were added to them."""
    if not isinstance(settings, BaseModel):
        return {}
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        model = getattr(settings, name)
        if before := {**getattr(model, "added", {}), **_before(model)}:
            found[name] = before | ({"kind": model.kind} if hasattr(model, "kind") else {})
    return found


def _without_paths(value: Any) -> Any:  # noqa: ANN401  # any value of a configuration
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items() if not isinstance(item, Path)}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return value
