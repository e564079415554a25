"""The digest of everything a stage's result depends on; with a unit, the address of a bundle."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from generators.source import GeneratorSource
from infra.files import digest_of
from pipeline.errors import RunError
from stages.base.stage import GraphStage
from stages.base.variant import Variant
from stages.segmentation import HuggingFace

DIGITS = 16


def fingerprint(
    name: str,
    version: int,
    settings: Mapping[str, Any],
    reads: Sequence[str] = (),
    *,
    extra: Mapping[str, Any] | None = None,
    known: Mapping[Path, str] | None = None,
) -> str:
    """Return the fingerprint of a stage.

    Args:
        name: of the stage.
        version: raised whenever the stage's code gives other results.
        settings: its configuration; every path in it is a file or folder of weights, and its digest
            stands for it.
        reads: fingerprints of the stages it reads.
        extra: anything else that decides its results.
        known: digests of weights files that need not be on this machine.
    """
    identity = {"name": name, "version": version, "settings": _identify(settings, known or {})}
    identity |= {"reads": list(reads), "extra": extra or {}}
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def settings_of(model: BaseModel, indifferent: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a model's fields for its fingerprint, without those that cannot change a result or that are as before."""
    settings: dict[str, Any] = {}
    before, counted = (model.all_added(), model.stands_for) if isinstance(model, GraphStage) else ({}, {})
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name not in indifferent and not (name in before and value == before[name]):
            value = counted[name].get(value, value) if name in counted else value
            settings |= value.hashed_as(name) if isinstance(value, Variant) else {name: value}
    return settings


def _identify(value: Any, known: Mapping[Path, str]) -> Any:  # noqa: ANN401  # any value of a configuration
    if isinstance(value, Path):
        return known.get(value) or (folder_digest(value) if value.is_dir() else file_digest(value))
    if isinstance(value, GeneratorSource | HuggingFace):
        return _identify(value.identity, known)
    if isinstance(value, BaseModel):
        before: Mapping[str, object] = getattr(value, "added", {})
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {
            name: _identify(field, known)
            for name, field in fields.items()
            if not (name in before and field == before[name])
        }
    if isinstance(value, Mapping):
        return {str(key): _identify(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identify(item, known) for item in value]
    return value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; raise `RunError` if there is none."""
    try:
        stat = path.stat()
    except OSError as error:
        raise RunError(
            f"no weights at {path}: {error.strerror}; put the file there or change the path that names it"
        ) from error
    return _digest(path, stat.st_size, stat.st_mtime_ns)


def folder_digest(path: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files, wherever it is.

    Hidden files and folders are excluded: tools keep their own notes there (`.cache`, `.git`), which no loader reads.

    Raises:
        RunError: a file cannot be read, or there is none.
    """
    listing = json.dumps([(name, file_digest(path / name)) for name in folder_files(path)])
    return hashlib.sha256(listing.encode()).hexdigest()


def folder_files(path: Path) -> list[str]:
    """Return the names of a folder's files that count, sorted: hidden ones do not; raises `RunError` without any."""
    names = sorted(
        name.as_posix()
        for name in (file.relative_to(path) for file in path.rglob("*") if not file.is_dir())
        if not any(part.startswith(".") for part in name.parts)
    )
    if not names:
        raise RunError(f"no weights in {path}: the folder holds no files; fill it or change the path that names it")
    return names


@functools.lru_cache(maxsize=64)
def _digest(path: Path, _size: int, _modified_ns: int) -> str:
    return digest_of(path)
