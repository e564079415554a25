"""A comparison with an array of the reference data, in the data's own unit: largest difference over largest value."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CODES, IMAGES, GRADIENTS = 1e-5, 1e-4, 1e-3
"""The suggested tolerances of the reference data on a CPU."""

GPU_FACTOR = 5.0
"""Factor by which they grow on a GPU, with TF32 off."""

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """The difference of a result from its reference, and its tolerance."""

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; nan and infinity are not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Setting:
    """Where the references are, and how they are compared."""

    golden: Path
    device: torch.device
    quick: bool

    @property
    def factor(self) -> float:
        """Factor of the tolerances of computed tensors."""
        return 1.0 if self.device.type == "cpu" else GPU_FACTOR

    def arrays(self, name: str) -> Arrays:
        """Return the arrays of an npz file, on the device, except those of types that torch lacks."""
        with np.load(self.golden / name, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
        return {
            key: torch.from_numpy(array).to(self.device) for key, array in found.items() if array.dtype.kind in "fiub"
        }

    def row(self, name: str, found: Tensor | NDArray[Any], wanted: Tensor | NDArray[Any], tolerance: float) -> Row:
        """Return the row of a comparison; the tolerance is the CPU's."""
        return Row(name, distance(found, wanted), tolerance * self.factor)


def distance(found: Tensor | NDArray[Any], wanted: Tensor | NDArray[Any]) -> float:
    """Return the largest difference over the largest reference value, infinite where the shapes differ.

    If the reference is 0 everywhere, the largest difference itself.
    """
    ours, theirs = (_float64(array) for array in (found, wanted))
    if ours.shape != theirs.shape:
        return math.inf
    largest = float(np.abs(theirs).max())
    return float(np.abs(ours - theirs).max()) / (largest or 1.0)


def helpers(name: str) -> Any:  # noqa: ANN401  # a module of the tests, which mypy does not check
    """Return a module of the tests, which hold recipes of data that the references describe but do not ship."""
    return importlib.import_module(f"tests.{name}")


def exact(name: str, equal: bool, note: str = "") -> Row:
    """Return the row of a result that must be equal."""
    return Row(name, 0.0 if equal else math.inf, 0.0, note)


def guarded(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows; an error becomes a failed row, so that the others are still compared."""
    try:
        yield from rows
    except Exception as error:  # any error becomes this row's result
        yield Row(f"{name}/stopped", math.inf, 0.0, f"{type(error).__name__}: {str(error)[:200]}")


def _float64(array: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    plain = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    return np.asarray(plain, np.float64)
