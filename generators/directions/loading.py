"""Read files of directions, recognised by their content; no code from a file is run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from torch import Tensor

from generators.checkpoints import local_path, read_file
from generators.directions.direction import Direction, shown_names
from generators.directions.own import read_own
from generators.directions.published import NPY, read_npy, read_torch
from generators.errors import CheckpointError, DirectionError, UnknownFormatError
from generators.unpickling.torch_file import LEGACY, ZIP
from infra.fetching.uri import scheme_of, shown

MAX_BYTES = 64 * 2**20
"""The largest file that is read; 1,000 directions of [18, 512] have 37 MB."""

NOUN = "direction file"
READ_TODAY = (
    "read: .npy of [1, num_ws, w_dim], GANSpace's and InterFaceGAN's torch files (.pt), and invertmill's .safetensors"
)


@dataclass(frozen=True)
class DirectionFile:
    """The content of a file of directions."""

    source: str  # the path or address, as messages show it
    digest: str  # SHA-256 of the file
    directions: Mapping[str, Direction]  # by name

    def direction(self, name: str | int | None = None) -> Direction:
        """Return the direction of a name, which is not needed for a file of one direction.

        Raises:
            DirectionError: the file has no such direction, or several and no name is given.
        """
        names = shown_names(self.directions)
        if name is None and len(self.directions) > 1:
            raise DirectionError(
                f"direction file {self.source} holds {len(self.directions)} directions: give a name, one of {names}"
            )
        if name is not None and str(name) not in self.directions:
            raise DirectionError(f"direction file {self.source} has no direction {str(name)[:100]!r}: it has {names}")
        return next(iter(self.directions.values())) if name is None else self.directions[str(name)]


def load_direction(path_or_uri: str | Path, name: str | int | None = None, *, sha256: str | None = None) -> Tensor:
    """Return an edit direction δw, `[num_ws or 1, w_dim]` float32 on the CPU, finite.

    Args:
        path_or_uri: a local path, `file://`, `s3://BUCKET/KEY` or `https://…`; fetched files are kept in the cache.
        name: which direction of a file of several; GANSpace's components are named by their numbers from 0.
        sha256: expected digest of the file.

    Raises:
        DirectionError: the file is missing, damaged, hostile or of an unknown format; a number is NaN or infinite;
            the name is unknown, or missing although there are several.
    """
    return read_directions(path_or_uri, sha256=sha256).direction(name).delta


def read_directions(path_or_uri: str | Path, *, sha256: str | None = None) -> DirectionFile:
    """Return all directions of a file with their provenance; arguments and errors as for `load_direction`."""
    source = shown(str(path_or_uri))
    try:
        path = local_path(path_or_uri, sha256 and sha256.lower(), NOUN, MAX_BYTES)
        data = read_file(path, MAX_BYTES, READ_TODAY, NOUN)
    except CheckpointError as error:
        raise DirectionError(str(error)) from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256.lower() != digest:
        raise DirectionError(f"SHA-256 mismatch for direction file {source}: expected {sha256}, got {digest}")
    stem = PurePosixPath(unquote(urlsplit(source).path) if scheme_of(source) else Path(source).name).stem
    with _blaming(source):
        found = _parse(data, stem or "direction")
    return DirectionFile(
        source, digest, {name: _sourced(direction, digest, source) for name, direction in found.items()}
    )


def _parse(data: bytes, name: str) -> dict[str, Direction]:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return read_own(data)
    if data.startswith(NPY):
        return read_npy(data, name)
    if data.startswith((ZIP, LEGACY)):
        return read_torch(data, name)
    raise UnknownFormatError(f"is of an unknown format, beginning with the bytes {data[:16].hex(' ') or 'of nothing'}")


def _sourced(direction: Direction, digest: str, source: str) -> Direction:
    """Return a direction of a published file with that file as its source; our own files name theirs."""
    if direction.provenance.source_sha256 or direction.provenance.generator_sha256:
        return direction
    at = {"source": PurePosixPath(source).name[:1000], "source_sha256": digest}
    return replace(direction, provenance=direction.provenance.model_copy(update=at))


@contextmanager
def _blaming(source: str) -> Iterator[None]:
    """Turn what a file's content provokes into a DirectionError that names the file."""
    try:
        yield
    except UnknownFormatError as error:
        raise DirectionError(f"direction file {source} {error}; {READ_TODAY}") from error
    except CheckpointError as error:
        raise DirectionError(f"direction file {source}: {error}") from error
    except Exception as error:  # whatever a hostile file provokes is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise DirectionError(f"direction file {source} is truncated or damaged ({reason})") from error
