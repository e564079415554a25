"""Weights on their way to workers: a stage names files by path, and every machine opens them by their digest.

A worker that does not find a path with the right content takes the file from the cache of its machine
(`infra.fetching`), and what the cache lacks from the run's store.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from infra.errors import FetchError, NotFoundError
from infra.fetching.fetch import fetch_stored, fetch_stored_folder
from infra.files import digest_of
from infra.stores.storage import Store
from pipeline.config import Compute
from pipeline.data.fingerprint import file_digest, folder_digest, folder_files
from stages.base.errors import WeightsError

STORED = "weights"
"""Folder of a run's store for local weights that workers on other machines need."""

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Weights:
    """One file or folder of weights that a stage names by its path on the driver."""

    path: Path
    sha256: str  # of a file; for a folder, of its names and contents
    files: Mapping[str, str] | None = None  # of a folder: the SHA-256 of each file, by name
    stored: str | None = None  # its name in the run's store; None is STORED and its digest

    @classmethod
    def from_path(cls, path: Path) -> Weights:
        """Return the weights at a path of this machine; raise `RunError` if they are not readable."""
        if path.is_dir():
            return cls(path, folder_digest(path), {name: file_digest(path / name) for name in folder_files(path)})
        return cls(path, file_digest(path))

    @property
    def name(self) -> str:
        """Its name in the run's store."""
        return self.stored or f"{STORED}/{self.sha256}"

    def put(self, store: Store) -> None:
        """Put the weights into the run's store unless it has them."""
        for name, file in self._parts(self.name, self.path):
            if not store.exists(name):
                store.write(name, file)

    def local(self, store: Store) -> Path:
        """Return the place of the weights on this machine: their path, or its cache.

        Raises:
            WeightsError: neither this machine nor the run's store has them.
        """
        if self._is_at(self.path):
            return self.path
        try:
            if self.files is None:
                return fetch_stored(store, self.name, self.sha256)
            return fetch_stored_folder(store, self.name, self.sha256, self.files)
        except NotFoundError as error:
            raise WeightsError(
                f"{self.path} with the SHA-256 {self.sha256} is neither on {socket.gethostname()} nor in the run's "
                f"store as {self.name}: run again, which puts it there, or copy it to the same path on every machine"
            ) from error
        except FetchError as error:
            raise WeightsError(str(error)) from error

    def _is_at(self, path: Path) -> bool:
        try:
            if self.files is None:
                return path.is_file() and digest_of(path) == self.sha256
            return all((path / name).is_file() and digest_of(path / name) == self.files[name] for name in self.files)
        except OSError:
            return False

    def _parts(self, name: str, path: Path) -> Iterator[tuple[str, Path]]:
        if self.files is None:
            yield name, path
        else:
            yield from ((f"{name}/{file}", path / file) for file in self.files)


def weights_of(stage: BaseModel, store: Store, compute: Compute, committed: Path | None = None) -> tuple[Weights, ...]:
    """Return the weights that a stage names by paths of this machine, for workers.

    Workers of a cluster may be on other machines: for them the weights are put into the run's store, once per digest.

    Args:
        stage: any stage.
        store: the run's.
        compute: tells whether there is a cluster.
        committed: path of weights that the store already has as part of a bundle.
    """
    paths = dict.fromkeys(path for path in _paths(stage) if path != committed and path.exists())
    weights = tuple(map(Weights.from_path, paths))
    if compute.address is not None:
        for each in weights:
            each.put(store)
    return weights


def localised(stage: _Model, weights: tuple[Weights, ...], store: Store) -> _Model:
    """Return a stage whose weights are on this machine: paths in the cache replace its own if needed.

    Raises:
        WeightsError: this machine cannot get them.
    """
    return with_paths(stage, {one.path: one.local(store) for one in weights})


def with_paths(stage: _Model, places: Mapping[Path, Path]) -> _Model:
    """Return a stage with some of its paths replaced by others with the same content."""
    moved: _Model = _replaced(stage, lambda path: places.get(path, path))
    return moved


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)


def _replaced(value: Any, place_of: Callable[[Path], Path]) -> Any:  # noqa: ANN401  # any value of a configuration
    if isinstance(value, Path):
        return place_of(value)
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: _replaced(field, place_of) for name, field in fields.items()}
        return value.model_copy(update={name: new for name, new in changed.items() if new is not fields[name]})
    if isinstance(value, list | tuple):
        items = [_replaced(item, place_of) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
    return value
