"""Errors of the operating system about files, as our errors with a remedy."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InfraError, NotFoundError, StoreError, TransientError

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
def explained(path: Path | str, action: str) -> Iterator[None]:
    """Raise errors of the operating system as our errors with a remedy."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, action) from error


def _explain(error: OSError, path: Path | str, action: str) -> InfraError:
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
