"""One version of an object as a seekable file: parquet readers fetch the parts that they need."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from infra.errors import TransientError

Fetch = Callable[[int, int], tuple[bytes, str]]
"""Returns the bytes `[start, stop)` of an object, and its ETag now."""


class S3File(io.RawIOBase):
    """One version of one object as an unbuffered file."""

    def __init__(self, url: str, size: int, etag: str, fetch: Fetch) -> None:
        self._url = url
        self._size = size
        self._etag = etag
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it; raise `ValueError` if it is negative."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset} in {self._url}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # the buffer protocol has no type before Python 3.12
        """Fill a buffer from the position on, and return the number of bytes; 0 at the end."""
        data = self._next(min(self._position + len(buffer), self._size))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return everything from the position on."""
        return self._next(self._size)

    def _next(self, stop: int) -> bytes:
        if self._position >= stop:
            return b""
        data, etag = self._fetch(self._position, stop)
        if etag != self._etag or len(data) != stop - self._position:
            raise TransientError(
                f"{self._url} changed while it was read: its ETag was {self._etag} and is now "
                f"{etag or 'none'}; read it again from the beginning"
            )
        self._position += len(data)
        return data
