"""The contract of a store: named byte sequences under one root, replaced and created atomically."""

import math
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict

from infra.errors import StoreError
from infra.files import HIDDEN

RESERVED_PREFIX = HIDDEN
"""How the base names begin that a store keeps for itself (unfinished writes, probes); never listed."""


@dataclass(frozen=True)
class Entry:
    """One complete object of a store.

    `version` changes whenever the content may have changed: the ETag, or size and modification time of a file.
    """

    name: str
    size: int
    version: str
    modified: float = field(default=0.0, compare=False)  # in seconds since 1970, by the store's clock


class StoreOptions(BaseModel):
    """How a kind of store is reached. A kind without options of its own uses this class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def for_fetching(cls) -> Self:
        """Return the options with which a single file is fetched: those that the environment gives."""
        return cls()


class Store(ABC):
    """Named objects below one root, on a filesystem or in object storage.

    Names are relative POSIX paths. A store opens no connection until it is first used, can be pickled to another
    process, and may be used from many threads at once. Every method raises `StoreError` for what users must fix
    and `TransientError` for what may pass by itself.
    """

    url: str

    @property
    @abstractmethod
    def conditional(self) -> bool:
        """Whether `create` has exactly one winner, even if others create the same name at the same time."""

    @abstractmethod
    def check(self, write: bool = True) -> None:
        """Return if the store can be reached and read and, with `write`, written; otherwise raise with a remedy."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None, version: str | None = None) -> bytes:
        """Return the bytes `[start, stop)` of an object, fewer if it ends earlier, like a slice.

        Raises `NotFoundError` if there is no such object, `ChangedError` if a version is given, as `list` states it,
        and the object has another version.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Return a seekable, buffered reader of one object; it reads one version of it or raises.

        Raises `NotFoundError` if there is no such object.
        """

    @abstractmethod
    def write(self, name: str, data: bytes | Path) -> None:
        """Put an object, or the content of a local file, under this name in one atomic step, replacing any other."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Return True if this call made the object, in one atomic step, and False if it existed.

        An existing object stays untouched, and of many callers exactly one gets True, if `conditional`.
        Otherwise the name is looked up first, and callers closer together than that both write: the last one wins.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is a complete object of this name."""

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """Return the entry of one complete object, None if there is none."""

    @abstractmethod
    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """Yield the complete objects whose names begin with `prefix`, sorted by name; never unfinished writes.

        With `deep=False` only those in the folder of the prefix: no slash follows in their names.
        """

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; missing names are ignored."""

    @abstractmethod
    def sweep(self, prefix: str = "", *, before: float = math.inf) -> int:
        """Delete the leftovers of interrupted writes below `prefix`, and return their number.

        A write in progress can be distinguished from an interrupted one only by its modification time. Only writes
        `before` that time, in seconds since 1970, are deleted.
        """

    def patient(self) -> "Store":
        """Return this store with calls that wait while it is unavailable, if it is of a kind that can be."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class BucketStore(Store):
    """A store in a bucket of an object storage service; shards are found in it by prefix."""

    bucket_url: str
    """The address of its bucket, as s3://BUCKET."""

    @property
    @abstractmethod
    def service(self) -> str:
        """What tells the service apart from others of its kind that may hold a bucket of the same name."""

    @abstractmethod
    def within_bucket(self, prefix: str) -> "BucketStore":
        """Return the store below a prefix of the same bucket, reached in the same way; "" is the whole bucket."""

    @abstractmethod
    def folders(self, prefix: str) -> Sequence[str]:
        """Return some of the folders directly below `prefix`, which ends in a slash or is empty; one request."""


def checked_name(name: str) -> str:
    """Return the name if it is a relative POSIX path without detours; raise `StoreError` if not."""
    if (
        not name
        or "\0" in name
        or name.startswith("/")
        or name != posixpath.normpath(name)
        or name in (".", "..")
        or name.startswith("../")
    ):
        raise StoreError(f"a name in a store must be a relative path without '.', '..' or empty parts, got {name!r}")
    if is_reserved(name):
        raise StoreError(f"names that begin with {RESERVED_PREFIX!r} are reserved for unfinished writes, got {name!r}")
    return name


def checked_key(name: str) -> str:
    """Return the name if an object can be read by it: empty parts are allowed, as object storage allows them.

    Raises `StoreError` for a name with parts that HTTP clients would fold ('.' and '..'), or a reserved one.
    """
    if not name or "\0" in name or {".", ".."} & set(name.split("/")):
        raise StoreError(f"a name in a store must be a relative path without '.' or '..', got {name!r}; rename it")
    if is_reserved(name):
        raise StoreError(f"names that begin with {RESERVED_PREFIX!r} are reserved for unfinished writes, got {name!r}")
    return name


def is_reserved(name: str) -> bool:
    """Return whether a store reserves this name."""
    return posixpath.basename(name).startswith(RESERVED_PREFIX)
