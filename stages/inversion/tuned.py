"""Stored form of a generator that was tuned to one image: the change of each weight, 8 bits and a scale per row.

For a weight `NAME` the arrays are `tuned.NAME.change` (int8, the weight's shape) and `tuned.NAME.scale` (float32, one
per entry of the first axis); the change is their product. Weights that did not change take no room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.errors import ArgumentError
from generators.generator import Generator

PREFIX = "tuned."
LEVELS = 127

Arrays = Mapping[str, NDArray[np.generic]]


@torch.no_grad()
def pack_change(original: Generator, tuned: Generator) -> dict[str, NDArray[np.generic]]:
    """Return the arrays that hold the difference of a tuned generator from the original."""
    arrays: dict[str, NDArray[np.generic]] = {}
    before = original.tunable
    for name, weight in tuned.tunable.items():
        change = (weight - before[name]).float()
        if not bool(change.any()):
            continue
        rows = change.reshape(len(change) if change.ndim else 1, -1)
        scale = rows.abs().amax(dim=1) / LEVELS
        levels = torch.where(scale[:, None] > 0, rows / scale[:, None].clamp_min(1e-30), 0).round()
        arrays[f"{PREFIX}{name}.change"] = levels.to(torch.int8).reshape(change.shape).cpu().numpy()
        arrays[f"{PREFIX}{name}.scale"] = scale.cpu().numpy()
    return arrays


def change_bytes(generator: Generator) -> int:
    """Return the bytes of the stored change of a tuned generator, before compression."""
    return sum(weight.numel() + 4 * (len(weight) if weight.ndim else 1) for weight in generator.tunable.values())


def is_tuned(names: Iterable[str]) -> bool:
    """Return whether arrays of these names hold the change of a generator."""
    return any(name.startswith(PREFIX) for name in names)


def changes_in(arrays: Arrays) -> Arrays:
    """Return those arrays of an inversion that hold the change of a generator."""
    return {name: array for name, array in arrays.items() if name.startswith(PREFIX)}


def tuned_generator(generator: Generator, arrays: Arrays) -> Generator:
    """Return the generator that an image's codes belong to: a frozen copy with the stored change, if there is one.

    Raises:
        ArgumentError: the change is of another generator.
    """
    if not is_tuned(arrays):
        return generator
    copy = generator.thawed()
    weights = copy.tunable
    with torch.no_grad():
        for name in [name for name in arrays if name.startswith(PREFIX) and name.endswith(".change")]:
            weight = name.removeprefix(PREFIX).removesuffix(".change")
            change = _change(arrays, weight)
            if weight not in weights or weights[weight].shape != change.shape:
                raise ArgumentError(
                    f"the tuned weight {weight} {list(change.shape)} is not one of this generator: use the generator "
                    "that the image was inverted with"
                )
            weights[weight].add_(change.to(weights[weight]))
    return copy.freeze()


def _change(arrays: Arrays, weight: str) -> Tensor:
    levels = torch.from_numpy(np.asarray(arrays[f"{PREFIX}{weight}.change"], np.float32))
    scale = torch.from_numpy(np.asarray(arrays[f"{PREFIX}{weight}.scale"], np.float32))
    return levels * scale.reshape(-1, *[1] * (levels.ndim - 1)) if levels.ndim else levels * scale[0]
