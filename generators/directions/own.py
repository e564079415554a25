"""The project's own file of directions: safetensors, a tensor for each, and their provenance in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from generators.directions.direction import MAX_NAME, Direction, Provenance, check_finite, checked_delta
from generators.errors import DirectionError, UnknownFormatError
from infra.files import put

FORMAT = "invertmill-directions"
VERSION = "1"


def save_directions(directions: Sequence[Direction], path: Path) -> None:
    """Write directions as one file, whole or not at all; equal directions give equal bytes.

    Raises:
        DirectionError: there are no directions, two have one name, or a name or number is not allowed.
    """
    names = [direction.name for direction in directions]
    if not names or len(set(names)) < len(names):
        raise DirectionError(f"expected directions of different names, got {names or 'none'}")
    for direction in directions:
        _check_name(direction.name)
        check_finite(direction.delta, direction.name)
    tensors = {direction.name: direction.delta.float().cpu().contiguous() for direction in directions}
    about = {direction.name: direction.provenance.model_dump() for direction in directions}
    metadata = {"format": FORMAT, "version": VERSION, "directions": json.dumps(about, sort_keys=True)}
    put(path, _ordered(safetensors.torch.save(tensors, metadata)))


def read_own(data: bytes) -> dict[str, Direction]:
    """Return the directions of a safetensors file, by name, in the order of their names; numbers count as such.

    Raises:
        DirectionError: it is damaged, or of a later version.
        UnknownFormatError: it was not written by `save_directions`.
    """
    tensors = safetensors.torch.load(data)
    metadata = _header(data)[0].get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise UnknownFormatError("is a safetensors file without directions")
    if metadata.get("version") != VERSION:
        raise DirectionError(f"is of version {metadata.get('version')!r}; this invertmill reads version {VERSION}")
    about = json.loads(metadata["directions"])
    if not isinstance(about, dict) or about.keys() != tensors.keys() or not tensors:
        raise DirectionError("names other directions in its metadata than it holds")
    return {name: _direction(name, tensors[name], about[name]) for name in sorted(tensors, key=_place)}


def _direction(name: str, tensor: Tensor, about: object) -> Direction:
    _check_name(name)
    try:
        provenance = Provenance.model_validate(about)
    except ValidationError as error:
        reason = error.errors()[0]
        raise DirectionError(
            f"has no valid provenance for {name!r}: {'.'.join(map(str, reason['loc']))}: {reason['msg']}"
        ) from error
    return Direction(name, checked_delta(tensor, name), provenance)


def _place(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isascii() and name.isdecimal() else (-1, name)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise DirectionError(f"the name of a direction has 1 to {MAX_NAME} printable characters, got {name[:120]!r}")


def _header(data: bytes) -> tuple[Mapping[str, Mapping[str, str]], int]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its header in order: the library orders the metadata differently at every call."""
    content, end = _header(data)
    header = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
