"""The families of generators. A new family is one module and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from generators.errors import ArgumentError
from generators.families import biggan_deep, stylegan2
from generators.families.family import Family, FamilyOptions

FAMILIES: tuple[Family, ...] = (stylegan2.FAMILY, biggan_deep.FAMILY)
BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}
_BY_CONFIG: Mapping[type[BaseModel], Family] = {family.config: family for family in FAMILIES}
OPTIONS: tuple[type[FamilyOptions], ...] = tuple(family.options for family in FAMILIES)
"""The options of every family; their names do not overlap."""


def family_of(config: BaseModel) -> Family:
    """Return the family of a configuration."""
    return _BY_CONFIG[type(config)]


def check_options(options: Mapping[str, object]) -> None:
    """Raise ArgumentError for an option that no family has, or a value that its family refuses."""
    for name, value in options.items():
        kinds = [kind for kind in OPTIONS if name in kind.model_fields]
        if not kinds:
            known = ", ".join(name for kind in OPTIONS for name in kind.model_fields)
            raise ArgumentError(f"no family of generators has the option {name!r}: choose among {known}")
        _validated(kinds[0], {name: value})


def options_for(family: Family, options: Mapping[str, object]) -> FamilyOptions:
    """Return the options of a family; those of other families are ignored.

    Raises:
        ArgumentError: a value is refused, or an option of another family that this one refuses.
    """
    own = {name: value for name, value in options.items() if name in family.options.model_fields}
    for name, remedy in family.options.refused.items():
        if name in options and options[name] != _default(name):
            raise ArgumentError(remedy.format(value=options[name]))
    return _validated(family.options, own)


def _default(name: str) -> object:
    return next(kind.model_fields[name].default for kind in OPTIONS if name in kind.model_fields)


def _validated(kind: type[FamilyOptions], options: Mapping[str, Any]) -> FamilyOptions:
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        choices = get_args(kind.model_fields[name].annotation)
        bound = first["msg"].removeprefix("Input should ")
        expected = f"be one of {', '.join(map(str, choices))}" if choices else bound
        raise ArgumentError(f"{name} must {expected}, got {options[name]!r}") from None
