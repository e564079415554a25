"""Files that appear whole or not at all, and their digests; the rest of infra writes files with these functions."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PROCESS = uuid.uuid4().hex[:12]
"""Identifies this process in file names, also among the processes of other machines."""
HIDDEN = ".invertmill-"
"""Prefix of the names of files being written; a store never lists them."""
PARTIAL = ".partial"
ABANDONED_S = 24 * 3600.0
"""Age without a write after which a partial file counts as the leftover of a killed process."""


def partial_path(path: Path) -> Path:
    """Return the path under which this thread writes a file before it takes its name."""
    return path.with_name(f"{HIDDEN}{path.name}.{PROCESS}-{threading.get_native_id()}{PARTIAL}")


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield the path of a new file next to `path`, which the block writes and which then replaces `path`.

    The folder is created if it is missing. If the block raises, nothing is left. Other threads and processes may write
    the same path: each has its own partial file, and the last to finish wins.
    """
    with partial_file(path) as partial:
        yield partial
        publish(partial, path)


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file next to `path`; it is deleted at the end of the block unless it was renamed.

    Partial files of killed processes in the same folder are deleted when they are a day old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    partial = partial_path(path)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Flush a partial file to the disk and give it its name, replacing any other."""
    flush(partial)
    partial.replace(path)


def flush(path: Path) -> None:
    """Return once all of a file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def put(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with staged(path) as partial:
        partial.write_bytes(data)


def put_link(path: Path, file: Path) -> None:
    """Give a file a second name; copy it if the filesystem has no hard links."""
    with partial_file(path) as partial:
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)
        partial.replace(path)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sweep(folder: Path) -> None:
    for partial in folder.glob(f"{HIDDEN}*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.lstat().st_mtime > ABANDONED_S:
                partial.unlink()
