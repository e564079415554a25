"""The edits that a run makes of every image: directions from files, moves of the class, magnitudes, and sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StringConstraints,
    Tag,
)
from torch import Tensor

from generators.directions.direction import Layers, in_layers, of_codes
from generators.directions.loading import DirectionFile, read_directions
from generators.errors import DirectionError
from generators.generator import Generator
from stages.editing.classes import ClassMeans, MoveOfClass

EditName = Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=100)]
"""A name that may be a part of file names in WebDataset tars."""

Magnitudes = Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


Class = Annotated[int, Field(strict=True, ge=0)]


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


class ClassMove(_Settings):
    """A move from one class to another, of a conditional generator: the difference of their mean codes (Fig. 4.4)."""

    name: EditName  # of its edits, in the names of their files and in the index
    to_class: Class  # reached at magnitude 1
    from_class: Class | None = None  # None is each image's own class, which needs the run's `label`
    layers: Layers | None = None  # first and last row of w_plus that it changes; None is all
    magnitudes: Magnitudes | None = None  # None is edit.magnitudes


FROM_FILE, CLASS_MOVE = "from-file", "class-move"


def _kind(value: object) -> str:
    """Return which of the two a direction is: only a move has a class to go to."""
    moves = "to_class" in value if isinstance(value, Mapping) else isinstance(value, ClassMove)
    return CLASS_MOVE if moves else FROM_FILE


AnyDirection = Annotated[
    Annotated[EditDirection, Tag(FROM_FILE)] | Annotated[ClassMove, Tag(CLASS_MOVE)], Discriminator(_kind)
]


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
    """One edit: `change` is δw+ times its magnitude, `[num_ws or 1, w_dim]`; moves of the class add to it."""

    name: str  # of its direction or sequence
    magnitude: float
    change: Tensor
    moves: tuple[MoveOfClass, ...] = ()

    @property
    def label(self) -> str:
        """The part of its file's name between key and extension."""
        return label_of(self.name, self.magnitude)

    @property
    def needs_classes(self) -> bool:
        """Whether it depends on the class of each image."""
        return any(move.from_class is None for move in self.moves)

    def change_of(self, classes_N: Sequence[int | None]) -> Tensor:
        """Return δw+ times its magnitude for images of some classes: `[num_ws or 1, w_dim]`, or one for each image.

        Args:
            classes_N: class of each image; not used unless `needs_classes`.
        """
        change = self.change
        for move in self.moves:
            change = change + move.change_of(classes_N)
        return change


def label_of(name: str, magnitude: float) -> str:
    """Return the part of a file's name that tells an edit from others: `age.-1.5`."""
    return f"{name}.{magnitude + 0.0:g}"  # + 0.0: the zero of -0 has no sign


def labels_of(
    directions: Sequence[AnyDirection], magnitudes: Sequence[float], sequences: Sequence[EditSequence]
) -> list[str]:
    """Return the labels of all edits of an image, in their order."""
    labels = [label_of(one.name, magnitude) for one in directions for magnitude in one.magnitudes or magnitudes]
    return labels + [label_of(one.name, magnitude) for one in sequences for magnitude in one.magnitudes]


def check_settings(
    directions: Sequence[AnyDirection], magnitudes: Sequence[float], sequences: Sequence[EditSequence]
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
    directions: Sequence[AnyDirection],
    magnitudes: Sequence[float],
    sequences: Sequence[EditSequence],
    generator: Generator,
) -> tuple[EditOfCodes, ...]:
    """Return all edits, on the generator's device: directions in their order with each magnitude, then sequences.

    Raises:
        DirectionError: a file or the direction in it is missing, damaged, not finite, or made for another generator;
            the generator lacks a class.
    """
    device = next(generator.parameters()).device
    files = {one.path: read_directions(one.path) for one in directions if isinstance(one, EditDirection)}
    means = ClassMeans(generator)
    units = {
        one.name: _unit_of_move(one, generator, means)
        if isinstance(one, ClassMove)
        else EditOfCodes(one.name, 1.0, _delta(one, files[one.path], generator).to(device))
        for one in directions
    }
    edits = [_times(units[one.name], magnitude) for one in directions for magnitude in one.magnitudes or magnitudes]
    for sequence in sequences:
        whole = _summed(sequence, units)
        edits += [_times(whole, factor) for factor in sequence.magnitudes]
    return tuple(edits)


def _delta(wanted: EditDirection, file: DirectionFile, generator: Generator) -> Tensor:
    """Return δw+ `[num_ws or 1, w_dim]` of a direction in its layers."""
    only = len(file.directions) == 1 and wanted.direction is None
    direction = file.direction(None if only else wanted.name if wanted.direction is None else wanted.direction)
    try:
        delta = of_codes(direction.delta, generator, direction.name)
        return in_layers(delta, wanted.layers, generator.num_ws, direction.name)
    except DirectionError as error:
        raise DirectionError(f"edit {wanted.name!r}, {file.source}: {error}") from error


def _unit_of_move(wanted: ClassMove, generator: Generator, means: ClassMeans) -> EditOfCodes:
    """Return a move of the class of magnitude 1."""
    try:
        for label in (wanted.to_class, wanted.from_class):
            means.check(label)
        rows_N1 = in_layers(torch.ones(1, 1), wanted.layers, generator.num_ws, wanted.name)
    except DirectionError as error:
        raise DirectionError(f"edit {wanted.name!r}: {error}") from error
    nothing = torch.zeros(1, generator.w_dim, device=means.device)
    move = MoveOfClass(means, wanted.to_class, wanted.from_class, rows_N1.to(means.device))
    return EditOfCodes(wanted.name, 1.0, nothing, (move,))


def _times(unit: EditOfCodes, magnitude: float) -> EditOfCodes:
    moves = tuple(move.times(magnitude) for move in unit.moves)
    return EditOfCodes(unit.name, magnitude, magnitude * unit.change, moves)


def _summed(sequence: EditSequence, units: Mapping[str, EditOfCodes]) -> EditOfCodes:
    """Return the sum of a sequence's directions: each is added to w_plus, so their order does not matter."""
    parts = [_times(units[part.direction], part.magnitude) for part in sequence.parts]
    change = torch.stack(torch.broadcast_tensors(*(part.change for part in parts))).sum(0)
    return EditOfCodes(sequence.name, 1.0, change, tuple(move for part in parts for move in part.moves))
