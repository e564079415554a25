"""The spaces that a method inverts in: those that maps assign, or one for the whole image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from generators.generator import Generator
from generators.latents import W_PLUS
from stages.base.errors import SettingError
from stages.inversion.methods.method import as_assigned

MAPS = "maps"
"""Each pixel in the space that it was assigned: SAM."""

W = "W"
"""One code for all layers: W+ whose rows stay equal."""

Assign = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def check_space(space: str, generator: Generator, spaces: Sequence[str]) -> None:
    """Raise `SettingError` unless images can be inverted in a space: MAPS, W, or one of the run's."""
    if space == W and generator.spaces[0] != W_PLUS:
        raise SettingError(
            f"invert.method: the space W is one code for all layers of a StyleGAN2, and the generator of the family "
            f"{generator.family} has {generator.spaces[0]}; choose among {', '.join((MAPS, *spaces))}"
        )
    if space not in (MAPS, W, *spaces):
        known = (MAPS, *([W] if generator.spaces[0] == W_PLUS else []), *spaces)
        raise SettingError(f"invert.method: there is no space {space!r} in this run; choose among {', '.join(known)}")


def assign_to(space: str, spaces: Sequence[str]) -> Assign:
    """Return the function that gives the assignment of a method: that of the maps, or one space everywhere."""
    if space == MAPS:
        return as_assigned
    index = 0 if space == W else spaces.index(space)
    return lambda assignment_HW: np.full_like(assignment_HW, index)


def in_space(space: str) -> str:
    """Return where a method inverts, for its title."""
    return " in the spaces of maps (SAM)" if space == MAPS else f" in {space}"
