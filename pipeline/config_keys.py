"""Every key of a configuration with its default and meaning, read from the models that validate it.

The meaning of a key is the comment or docstring next to its field, so that it is written once.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import io
import json
import textwrap
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

REQUIRED = "required"
AS_ELSEWHERE = "as elsewhere"
"""In the annotation of a field: its section has the keys of one that is listed by itself, and is not listed again."""
_NEAR, _ALIKE, _SUGGESTED = 0.6, 0.05, 4


@dataclass(frozen=True)
class Key:
    """One key, as used by `--set`."""

    path: str
    default: str | None  # as YAML; None for a section that always exists
    meaning: str
    kind: str | None = None  # of the section, if it is one of several kinds

    @property
    def leaf(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]


def keys_of(model: type[BaseModel], prefix: str = "", defaults: object = None) -> Iterator[Key]:
    """Yield the keys of a model in order, those of its sections after each.

    Args:
        model: the section.
        prefix: prefix of its keys, with the dot.
        defaults: an instance whose values are the defaults; None uses those of the fields.
    """
    kind = next(iter(map(str, literals(model))), None)
    for name, field in model.model_fields.items():
        value = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        sections, path = models_in(field.annotation), f"{prefix}{name}"
        required = field.is_required() and defaults is None
        always = sections and isinstance(value, BaseModel) and len(sections) == 1
        default = None if always or (required and sections) else REQUIRED if required else _as_yaml(value)
        yield Key(path, default, meaning_of(model, name), kind)
        for section in sections if AS_ELSEWHERE not in field.metadata else ():
            yield from keys_of(section, f"{path}.", value if isinstance(value, section) else None)


def nearest(model: type[BaseModel], unknown: str) -> list[str]:
    """Return the paths of keys that an unknown one may have meant, only the nearest unless others are equally near.

    The last part counts most, wherever it is, then the parts before it.
    """
    parent, _, leaf = unknown.rpartition(".")
    scores: dict[str, float] = {}
    for key in keys_of(model):
        alike = _ratio(leaf, key.leaf)
        if alike >= _NEAR:
            scores[key.path] = 0.7 * alike + 0.3 * _ratio(parent, key.path.rpartition(".")[0])
    best = max(scores.values(), default=0.0)
    near = [path for path, score in scores.items() if score >= best - _ALIKE]
    return sorted(near, key=lambda path: -scores[path])[:_SUGGESTED]


def meaning_of(model: type[BaseModel], name: str) -> str:
    """Return the text next to a field, or that of its only section or kind; empty if there is none."""
    declared: type[BaseModel] = getattr(model, "declared_in", model)  # of a section that is a part of a stage
    if written := next((text for one in declared.__mro__ if (text := _meanings(one).get(name))), ""):
        return written
    field = model.model_fields.get(name)
    return _first_line(models_in(field.annotation) or ([model] if name == "kind" else [])) if field else ""


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that a field may hold, itself or as items."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated, tuple):
        return [model for argument in get_args(annotation) for model in models_in(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def literals(model: type[BaseModel]) -> tuple[object, ...]:
    """Return the values of `kind` that distinguish a model from others."""
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind and get_origin(kind.annotation) is Literal else ()


@functools.cache
def _meanings(model: type) -> dict[str, str]:
    """Return the text next to each field in the source of one class."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or model is BaseModel:
        return {}
    source = textwrap.dedent(inspect.getsource(model))
    comments = {
        token.start[0]: token.string.lstrip("# ").partition("  # ")[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            texts = [comments.get(node.end_lineno or 0, "")]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                texts.append(inspect.cleandoc(str(after.value.value)).replace("\n", " "))
            found[node.target.id] = "; ".join(text for text in texts if text)
    return found


def _first_line(models: list[type[BaseModel]]) -> str:
    """Return the text of a section without text next to it."""
    return inspect.cleandoc(models[0].__doc__ or "").partition("\n")[0].rstrip(".") if len(models) == 1 else ""


def _as_yaml(value: Any) -> str:  # noqa: ANN401  # any value of a field
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True) | {"kind": getattr(value, "kind", None)}
        return "{" + ", ".join(f"{name}: {_as_yaml(one)}" for name, one in value.items() if one is not None) + "}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _ratio(one: str, other: str) -> float:
    return 1.0 if one == other else difflib.SequenceMatcher(None, one, other).ratio()
