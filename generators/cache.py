"""Where this machine keeps what is costly to get again, by digest: fetched checkpoints, and priors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

VARIABLE = "INVERTMILL_CACHE"
DEFAULT = ".cache/invertmill"
PARTIAL = ".partial"
ABANDONED_S = 24 * 3600
"""How long nobody has written to a partial file before it is taken for a dead process's."""


def cache_folder() -> Path:
    """Return the folder of the cache: `$INVERTMILL_CACHE`, else `~/.cache/invertmill`; it may not exist yet.

    All in it can be deleted at any time.

    Raises:
        OSError: the variable is not set and this user has no home.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    try:
        return Path.home() / DEFAULT
    except RuntimeError as error:
        raise OSError(errno.ENOENT, f"this user has no home folder; set {VARIABLE}") from error


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[BinaryIO]:
    """Give a new file in a folder, to be renamed by `keep`; what is not renamed is gone when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        with partial.open("xb") as stream:
            yield stream
    finally:
        partial.unlink(missing_ok=True)


def keep(stream: BinaryIO, path: Path) -> None:
    """Give a staged file its name, in place of what has it, once all of it is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())
    Path(stream.name).replace(path)


def put(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with staged(path.parent) as stream:
        stream.write(data)
        keep(stream, path)


def put_link(path: Path, file: Path) -> None:
    """Give a file of the cache another name; a copy where the filesystem has no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # it is left where both names were links to one file already


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Delete what processes that died left half written in a folder."""
    for partial in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_S:
                partial.unlink()


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let one process of this machine after the other run the block of this name.

    It saves work only: nothing breaks where files cannot be locked, as in a cache that this user may only read.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # there is none on Windows

            folder = cache_folder() / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context((folder / name).open("wb"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
