"""Open files elsewhere: their version on the server, their size, and their bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from infra.errors import FetchError, InfraError, NotFoundError, StoreError, TransientError
from infra.fetching.uri import WEB, scheme_of, shown, without_secrets
from infra.stores import folder
from infra.stores.storage import BY_SCHEME, bucket_of
from infra.stores.store import Entry, Store

SCHEMES = (*(scheme for scheme in BY_SCHEME if scheme != folder.SCHEME), *WEB)
"""Prefixes of the addresses that are fetched."""
BLOCK_BYTES = 1 << 20
OFFLINE = "With its sha256, a copy that is in the cache is used without asking the server"


class BrokenOffError(Exception):
    """The answer ended before the file did; a second attempt may read all of it."""


@dataclass(frozen=True)
class Remote:
    """A file elsewhere, opened."""

    version: str  # empty if the server gives nothing that changes with the content
    size: int | None  # None if the server does not give it
    blocks: Iterator[bytes]  # raises BrokenOffError


@contextlib.contextmanager
def open_remote(address: str, *, trusted: bool) -> Iterator[Remote]:
    """Open a file in object storage or on a web server.

    Args:
        address: `s3://BUCKET/KEY`, `https://…`, or `http://…` where that is safe.
        trusted: the content will be checked by its digest, so plain http is safe from other machines too.

    Raises:
        FetchError: the server is unreachable, there is no such file, it may not be read, or the address is of another
            kind.
    """
    if scheme_of(address) in WEB:
        from infra.fetching.web import open_web  # requests takes 0.1 s to import, which a local file does not need

        with open_web(address, trusted=trusted) as remote:
            yield remote
    else:
        with _open_stored(address) as remote:
            yield remote


def origin_of(address: str) -> str:
    """Return what identifies a file permanently: the address, and for object storage the service of its bucket."""
    if scheme_of(address) in WEB:
        return address
    try:
        return f"{bucket_of(address)[0].service} {address}"
    except StoreError:  # opening it reports the error
        return address


@contextlib.contextmanager
def _open_stored(address: str) -> Iterator[Remote]:
    """Open an object by HEAD, then by ranged GETs of one version, which the store repeats where they fail."""
    try:
        store, key = bucket_of(address)
        if not key:
            refuse(address, f"an address in object storage is {scheme_of(address)}://BUCKET/KEY")
        with open_object(store, key, address) as remote:
            yield remote
    except NotFoundError as error:
        refuse(address, "there is no such object; correct the address", error)
    except StoreError as error:
        refuse(address, str(error), error)


@contextlib.contextmanager
def open_object(store: Store, name: str, address: str) -> Iterator[Remote]:
    """Open an object of a store.

    Args:
        store: any store.
        name: of the object in it.
        address: of the object, for messages.

    Raises:
        FetchError: the store is unavailable.
        StoreError: it refuses; `NotFoundError` where there is no such object.
    """
    try:
        entry = _entry(store, name)
        if entry is None:
            raise NotFoundError(f"there is no {address}")
        stream = store.open(name)
    except TransientError as error:
        refuse(address, f"{error}. {OFFLINE}", error)
    with contextlib.closing(stream):
        blocks = iter(partial(stream.read, BLOCK_BYTES), b"")
        yield Remote(f'"{entry.version}" {entry.size}', entry.size, until_broken(blocks, (InfraError,)))


def _entry(store: Store, key: str) -> Entry | None:
    """Return the entry of an object, None if there is none; raises `StoreError` with the reason a server gives."""
    try:
        return store.entry(key)
    except StoreError:
        store.read(key, 0, 1)  # the answer to a HEAD request has no body with the reason of a refusal
        raise


def until_broken(blocks: Iterator[bytes], broken: tuple[type[Exception], ...]) -> Iterator[bytes]:
    """Yield blocks; raise `BrokenOffError` for errors of an answer that breaks off."""
    try:
        yield from blocks
    except broken as error:
        raise BrokenOffError(f"the answer broke off: {error}") from error


def refuse(address: str, reason: str, cause: Exception | None = None) -> NoReturn:
    """Raise `FetchError` for an address, without its query in the message."""
    raise FetchError(f"cannot fetch {shown(address)}: {without_secrets(reason, address)}") from cause
