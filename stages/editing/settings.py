"""The edits that a run makes of every image: directions from files, their magnitudes, and sequences of directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints
from torch import Tensor

from generators.directions.direction import Layers, check_fits, in_layers
from generators.directions.loading import DirectionFile, read_directions
from generators.errors import DirectionError
from generators.generator import Generator

EditName = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=100)]
"""A name that may be a part of file names in WebDataset tars."""

Magnitudes = Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _local(value: object) -> object:
    """Refuse addresses: the digest of a direction must be known before anything is fetched."""
    if isinstance(value, str) and "://" in value:
        raise ValueError("edits take directions from local files: copy it with `invertmill directions import`")
    return value


class EditDirection(_Settings):
    """A direction from a file."""

    name: EditName  # of its edits, in the names of their files and in the index
    path: Annotated[Path, BeforeValidator(_local)]  # a file of directions: .npy, .pt or .safetensors
    direction: str | int | None = None  # the one to use from a file of several; None is the one called `name`
    layers: Layers | None = None  # first and last row of w_plus that it changes; None keeps all rows of the file
    magnitudes: Magnitudes | None = None  # None is edit.magnitudes


class EditPart(_Settings):
    """A part of a sequence: a configured direction and its magnitude."""

    direction: EditName  # name of one of edit.directions
    magnitude: FiniteFloat = 1.0  # how far to follow it


class EditSequence(_Settings):
    """Several directions, one after the other, as one edit."""

    name: EditName  # of its edits, in the names of their files and in the index
    parts: Annotated[tuple[EditPart, ...], Field(min_length=1)]  # the directions, each with its magnitude
    magnitudes: Magnitudes = (1.0,)  # factors of the whole sequence


@dataclass(frozen=True, eq=False)
class EditOfCodes:
    """One edit: `change` is δw+ times its magnitude, `[num_ws or 1, w_dim]`."""

    name: str  # of its direction or sequence
    magnitude: float
    change: Tensor

    @property
    def label(self) -> str:
        """The part of its file's name between key and extension."""
        return label_of(self.name, self.magnitude)


def label_of(name: str, magnitude: float) -> str:
    """Return the part of a file's name that tells an edit from others: `age.-1.5`."""
    return f"{name}.{magnitude + 0.0:g}"  # + 0.0: the zero of -0 has no sign


def labels_of(
    directions: Sequence[EditDirection], magnitudes: Sequence[float], sequences: Sequence[EditSequence]
) -> list[str]:
    """Return the labels of all edits of an image, in their order."""
    labels = [label_of(one.name, magnitude) for one in directions for magnitude in one.magnitudes or magnitudes]
    return labels + [label_of(one.name, magnitude) for one in sequences for magnitude in one.magnitudes]


def check_settings(
    directions: Sequence[EditDirection], magnitudes: Sequence[float], sequences: Sequence[EditSequence]
) -> None:
    """Raise ValueError if a sequence names an unknown direction, or two edits would have one file name."""
    known = [direction.name for direction in directions]
    for sequence in sequences:
        if unknown := [part.direction for part in sequence.parts if part.direction not in known]:
            raise ValueError(
                f"sequence {sequence.name!r} names {', '.join(unknown)}: there are the directions {', '.join(known)}"
            )
    labels = labels_of(directions, magnitudes, sequences)
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"several edits would be called {', '.join(twice)}: give other names or magnitudes")


def edits_of(
    directions: Sequence[EditDirection],
    magnitudes: Sequence[float],
    sequences: Sequence[EditSequence],
    generator: Generator,
) -> tuple[EditOfCodes, ...]:
    """Return all edits, on the generator's device: directions in their order with each magnitude, then sequences.

    Raises:
        DirectionError: a file or the direction in it is missing, damaged, not finite, or made for another generator.
    """
    device = next(generator.parameters()).device
    files = {path: read_directions(path) for path in dict.fromkeys(one.path for one in directions)}
    deltas = {one.name: _delta(one, files[one.path], generator).to(device) for one in directions}
    edits = [
        EditOfCodes(one.name, magnitude, magnitude * deltas[one.name])
        for one in directions
        for magnitude in one.magnitudes or magnitudes
    ]
    for sequence in sequences:
        whole = _summed(sequence, deltas)
        edits += [EditOfCodes(sequence.name, factor, factor * whole) for factor in sequence.magnitudes]
    return tuple(edits)


def _delta(wanted: EditDirection, file: DirectionFile, generator: Generator) -> Tensor:
    """Return δw+ `[num_ws or 1, w_dim]` of a direction in its layers."""
    only = len(file.directions) == 1 and wanted.direction is None
    direction = file.direction(None if only else wanted.name if wanted.direction is None else wanted.direction)
    try:
        check_fits(direction.delta, generator.num_ws, generator.w_dim, direction.name)
        return in_layers(direction.delta, wanted.layers, generator.num_ws, direction.name)
    except DirectionError as error:
        raise DirectionError(f"edit {wanted.name!r}, {file.source}: {error}") from error


def _summed(sequence: EditSequence, deltas: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of a sequence's directions: each is added to w_plus, so their order does not matter."""
    changes = [part.magnitude * deltas[part.direction] for part in sequence.parts]
    return torch.stack(torch.broadcast_tensors(*changes)).sum(0)
