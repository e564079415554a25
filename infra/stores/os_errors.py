"""Errors of the operating system about files, as our errors with a remedy."""

import contextlib
import errno
import glob
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InfraError, NotFoundError, StoreError, TransientError

PROCESS = uuid.uuid4().hex[:12]
"""This process in names of files, unique among those of other machines too."""
_LEFT_S = 24 * 3600.0
_PASSING = {
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.EBUSY,
}


@contextlib.contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Raise errors of the operating system as our errors with a remedy."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, action) from error


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a file to write, which then replaces the path; remove it if it could not be written whole.

    It belongs to this process: others may write to the same path. Files of killed processes are removed after a day.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < time.time() - _LEFT_S:
                left.unlink()
    partial = path.with_name(f"{path.name}.{PROCESS}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _explain(error: OSError, path: Path, action: str) -> InfraError:
    said = f"cannot {action} {error.filename or path}: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{said}; check the path, or whether something deleted it")
    if error.errno in _PASSING:
        return TransientError(f"{said}; check the disk or the network mount if it happens again")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{said}; free space there or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"{said}; give this user the permission, or choose another folder")
    return StoreError(f"{said}; choose another folder, or move the obstacle")
