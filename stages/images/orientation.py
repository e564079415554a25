"""EXIF orientation: turning stored pixels upright, those of pictures and of their masks and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stages.base.errors import BadSampleError

Pixel = TypeVar("Pixel", bound=np.generic)

UPRIGHT: dict[int, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
"""The upright pixels of stored ones, by EXIF orientation."""


@dataclass(frozen=True)
class Geometry:
    """Height and width of an upright picture, and the EXIF orientation of its stored pixels."""

    height: int
    width: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return self.height, self.width

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return (self.width, self.height) if self.orientation >= 5 else self.size


def upright(stored_HW: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Return stored pixels, `[H, W, ...]`, upright."""
    turned: NDArray[Pixel] = np.ascontiguousarray(UPRIGHT[orientation](stored_HW))
    return turned


def upright_like(stored_HW: NDArray[Pixel], tag: int | None, picture: Geometry, name: str) -> NDArray[Pixel]:
    """Return a mask or labels, `[H, W]`, with a value for each upright pixel of their picture.

    Their own tag decides how they are turned. Without one, they match either the picture's stored pixels and are turned
    like the picture, or its upright ones. Their size decides, stored ones first.

    Raises:
        BadSampleError: they have neither size; the message gives `name`.
    """
    as_picture = picture.orientation if stored_HW.shape == picture.stored_size else 1
    turned_HW = upright(stored_HW, as_picture if tag is None else tag)
    if turned_HW.shape != picture.size:
        height, width = turned_HW.shape
        raise BadSampleError(
            f"{name} is {height} x {width} px, the image is {picture.height} x {picture.width} px: "
            "make both the same size"
        )
    return turned_HW
