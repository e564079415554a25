"""The stores by their addresses."""

import re
from urllib.parse import unquote, urlsplit

from infra.errors import StoreError
from infra.stores.folder import FolderStore
from infra.stores.s3 import S3Store
from infra.stores.s3_client import S3Options
from infra.stores.store import Entry, Store

__all__ = ["Entry", "FolderStore", "S3Options", "S3Store", "Store", "open_store"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,}")
_DEFAULTS = S3Options()


def open_store(url: str, options: S3Options = _DEFAULTS) -> Store:
    """Return the store at `s3://BUCKET/PREFIX`, `file:///FOLDER` or a folder's path; nothing is contacted yet.

    Raises `StoreError` if the address is none of these.
    """
    scheme = _SCHEME.match(url)
    if not url:
        raise StoreError("a store needs an address: s3://BUCKET/PREFIX or the path of a folder")
    if not scheme:
        return FolderStore(url)
    parts = urlsplit(url, allow_fragments=False)
    if scheme[1].lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise StoreError(f"a file address cannot name another machine, got {url!r}; write file:///FOLDER")
        return FolderStore(unquote(parts.path))
    if scheme[1].lower() != "s3":
        raise StoreError(
            f"stores are s3://BUCKET/PREFIX or folders, got {url!r}; other services are reached through their "
            "S3-compatible endpoint (endpoint_url)"
        )
    bucket, _, prefix = url[len(scheme[0]) :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreError(f"an S3 address is s3://BUCKET/PREFIX, with the bucket's exact name, got {url!r}")
    return S3Store(bucket, prefix.strip("/"), options)
