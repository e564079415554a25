"""The cache of this machine: files that are costly to get or make again, named by digest."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from infra.files import digest_of

VARIABLE = "INVERTMILL_CACHE"
DEFAULT = ".cache/invertmill"


def cache_folder() -> Path:
    """Return the folder of the cache, `$INVERTMILL_CACHE` or `~/.cache/invertmill`; it may not exist yet.

    Everything in it can be deleted at any time.

    Raises:
        OSError: the variable is not set and this user has no home folder.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    try:
        return Path.home() / DEFAULT
    except RuntimeError as error:
        raise OSError(errno.ENOENT, f"this user has no home folder; set {VARIABLE}") from error


def file_path(sha256: str) -> Path:
    """Return where the cache keeps the file of a digest; raises OSError as `cache_folder` does."""
    return cache_folder() / "files" / sha256


def kept_file(sha256: str) -> Path | None:
    """Return the file of a digest in the cache, None if there is none; a damaged file is deleted."""
    path = file_path(sha256)
    if not path.is_file():
        return None
    if digest_of(path) == sha256:
        return path
    with contextlib.suppress(OSError):
        path.unlink()
    return None


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Run the block in one process or thread of this machine at a time, among those that use the same name.

    The lock only saves work: without it (a cache that this user may only read, a filesystem without locks) the block
    runs all the same.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            folder = cache_folder() / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / name))
        yield
