"""What the operating system says of files, as one of our errors, with what to do about it."""

import contextlib
import errno
import glob
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InfraError, NotFoundError, StoreError, TransientError

PROCESS = uuid.uuid4().hex[:12]
"""What stands for this process in names of files, also among those of other machines."""
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
    """Raise what the operating system says as one of our errors, with what to do about it."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, action) from error


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a file to write, which then takes the path's place; what could not be written whole is removed.

    It is this process's own: others may write to the same path. Of processes that were killed, it goes after a day.
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
        return StoreError(f"{said}; give this user the right to, or choose another folder")
    return StoreError(f"{said}; choose another folder, or move what is in the way")
