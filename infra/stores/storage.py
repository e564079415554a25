"""The kinds of store by scheme, and the store that an address names.

A new kind is one module with `SCHEME`, `Options` and `at`, and one entry in `KINDS`.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Union

from infra.errors import StoreError
from infra.stores import folder, s3
from infra.stores.folder import FolderStore
from infra.stores.s3 import S3Store
from infra.stores.s3_client import S3Options
from infra.stores.store import BucketStore, Entry, Store, StoreOptions

__all__ = ["AnyOptions", "Entry", "FolderStore", "S3Options", "S3Store", "Store", "bucket_of", "open_store"]


class Kind(Protocol):
    """A kind of store, as a module."""

    @property
    def SCHEME(self) -> str:  # noqa: N802
        """How its addresses begin, in lower case."""

    @property
    def Options(self) -> type[StoreOptions]:  # noqa: N802
        """How it is reached: the keys of `storage.input` and `storage.output`."""

    def at(self, url: str, options: StoreOptions, /) -> Store:
        """Return the store at an address; nothing is contacted yet. Raises `StoreError` for a malformed address."""


KINDS: tuple[Kind, ...] = (folder, s3)
BY_SCHEME: Mapping[str, Kind] = {kind.SCHEME: kind for kind in KINDS}

if TYPE_CHECKING:
    AnyOptions = StoreOptions
else:
    AnyOptions = Union[tuple(kind.Options for kind in KINDS if kind.Options is not StoreOptions)]  # noqa: UP007
"""The options of any kind of store, as a configuration states them."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(address: str) -> str | None:
    """Return the scheme of an address in lower case, None for a path."""
    scheme = _SCHEME.match(address)
    return scheme[1].lower() if scheme else None


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store at `s3://BUCKET/PREFIX`, `file:///FOLDER` or a folder's path; nothing is contacted yet.

    Raises `StoreError` if the address is of another kind, or the options are those of another kind of store.
    """
    if not url:
        raise StoreError("a store needs an address: s3://BUCKET/PREFIX or the path of a folder")
    scheme = scheme_of(url)
    if scheme is None:
        return FolderStore(url)
    kind = BY_SCHEME.get(scheme)
    if kind is None:
        raise StoreError(
            f"stores are s3://BUCKET/PREFIX or folders, got {url!r}; other services are reached through their "
            "S3-compatible endpoint (endpoint_url)"
        )
    return kind.at(url, _options_for(kind, options))


def bucket_of(address: str) -> tuple[BucketStore, str]:
    """Return the bucket of an object's address, as it is reached for fetching, and the object's key ("" for none).

    Raises `StoreError` if the address is not that of an object in a bucket.
    """
    scheme = scheme_of(address) or ""
    kind = BY_SCHEME.get(scheme)
    bucket, _, key = address.partition("://")[2].partition("/")
    store = kind.at(f"{scheme}://{bucket}", kind.Options.for_fetching()) if kind and bucket else None
    if not isinstance(store, BucketStore):
        raise StoreError(f"an address in object storage is {scheme or 's3'}://BUCKET/KEY, got {address!r}")
    return store, key


def _options_for(kind: Kind, options: StoreOptions | None) -> StoreOptions:
    """Return the options if they are of this kind of store, else its defaults where nothing else was asked for."""
    if isinstance(options, kind.Options):
        return options
    if options is not None and options != type(options)():
        raise StoreError(
            f"a {kind.SCHEME}:// store has other options than {', '.join(sorted(options.model_fields_set))} under "
            "storage; take them out"
        )
    return kind.Options()
