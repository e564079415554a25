"""Init arguments of published networks: which are read, which may have one value only, which have no effect."""

from __future__ import annotations

from collections.abc import Mapping

from generators.errors import CheckpointError
from generators.unpickling.records import brief


def number(name: str, value: object) -> int | float | None:
    """Return the value of an argument that must be a number, or None."""
    if not isinstance(value, int | float | None):
        raise CheckpointError(f"holds a StyleGAN2 with {name} {brief(value)}: expected a number")
    return value


def one_of(name: str, value: object, wanted: tuple[object, ...]) -> None:
    """Raise CheckpointError if an argument has none of the readable values; the message gives the last."""
    if not isinstance(value, str | int | float | list | None) or value not in wanted:
        raise CheckpointError(f"holds a StyleGAN2 with {name} {brief(value)}: only {wanted[-1]!r} is read")


def check_argument(name: str, value: object, only: Mapping[str, tuple[object, ...]], no_matter: frozenset[str]) -> None:
    """Raise CheckpointError if an argument is unknown, or has a value that is not read.

    Args:
        name: of the argument.
        value: of the argument.
        only: the readable values, by name.
        no_matter: names of arguments that change no image.
    """
    if name not in only and name not in no_matter:
        raise CheckpointError(f"holds a network with the init argument {brief(name)}, which no StyleGAN2 has")
    if name in only:
        one_of(name, value, only[name])
