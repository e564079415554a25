"""Input addresses: their text in a configuration, and the shards that they name.

A folder means the `.tar` files in it. A name that exists literally is taken literally, whatever characters it holds.
Anything else is a pattern (`infra.addresses.patterns`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from infra.addresses.bucket_search import search_bucket
from infra.addresses.folder_search import search_folders
from infra.addresses.found import Found
from infra.addresses.patterns import TARS, escape, is_pattern, split_parts, unescape
from infra.errors import NotFoundError, StoreError
from infra.stores import folder
from infra.stores.storage import BY_SCHEME, open_store, scheme_of
from infra.stores.store import BucketStore, StoreOptions

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,}")
_FILE = re.compile(r"file:(?://(?:localhost)?(?=/)|(?=/(?!/)))", re.IGNORECASE)
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_HINTS = (
    (re.compile(r"(^|/)s3:(?!//)", re.IGNORECASE), "an address in object storage begins with s3://"),
    (re.compile(r"(^|/)[A-Za-z]:[\\/]|\\\\"), "Windows paths are not supported: write the path on this machine"),
    (re.compile(r"\$"), "environment variables are not expanded: write the path itself"),
    (re.compile(r"(^|/)\s|\s(/|$)"), "a name in it begins or ends with a space"),
)
"""Likely mistakes in an address that names nothing."""


@dataclass(frozen=True)
class InputAddress:
    """A parsed input address: a bucket or None for this machine, and the parts of a path, patterns among them."""

    written: str
    bucket: str | None  # as s3://BUCKET
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, written: str) -> "InputAddress":
        """Return the parsed address.

        Raises:
            StoreError: it is not a path, a file:// or an s3:// address.
        """
        if not written.strip() or "\0" in written:
            raise StoreError(
                f"an input address names shards, as in s3://BUCKET/FOLDER/ or FOLDER/*.tar; got {written!r}"
            )
        scheme = scheme_of(written)
        if scheme and scheme in BY_SCHEME and scheme != folder.SCHEME:
            return cls._in_bucket(written, scheme, written.partition("://")[2])
        if scheme and scheme != folder.SCHEME:
            raise StoreError(
                f"shards are read from s3://BUCKET/FOLDER/ or folders, got {written!r}; other services are reached "
                "through their S3-compatible endpoint (endpoint_url)"
            )
        if scheme and not _FILE.match(written):
            raise StoreError(f"a file address cannot name another machine, got {written!r}; write file:///FOLDER")
        local = _FILE.match(written)
        path = _PERCENT.sub(lambda code: escape(unquote(code[0])), written[local.end() :]) if local else written
        path = os.path.expanduser(path)  # noqa: PTH111  # pathlib would drop the last slash
        return cls(written, None, _as_folder(split_parts(path)))

    @classmethod
    def _in_bucket(cls, written: str, scheme: str, rest: str) -> "InputAddress":
        bucket, _, key = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise StoreError(
                f"an address in a bucket is {scheme}://BUCKET/FOLDER/, with the bucket's exact name (patterns begin "
                f"after it), got {written!r}"
            )
        return cls(written, f"{scheme}://{bucket}", _as_folder(split_parts(key)))

    def find(self, options: StoreOptions | None = None) -> Found:
        """Return the shards that the address names now.

        Raises:
            NotFoundError: there are none, or one named without a pattern is missing.
            StoreError: the store cannot be read.
        """
        try:
            if self.bucket is None:
                return search_folders(self.parts)
            bucket = open_store(self.bucket, options)
            assert isinstance(bucket, BucketStore)
            return search_bucket(bucket, self.parts)
        except NotFoundError as error:
            hints = "".join(f"; {hint}" for pattern, hint in _HINTS if pattern.search(unescape(self.written)))
            raise NotFoundError(f"{error}{hints}") from error


def anchored(address: str, folder_path: str) -> str:
    """Return an address with a relative path resolved against a folder, whose name is never a pattern."""
    if scheme_of(address) or _FILE.match(address) or address.startswith(("/", "~")):
        return address
    return f"{escape(folder_path).rstrip('/')}/{address}"


def shown(address: str) -> str:
    """Return an address in readable form, without escapes."""
    return unescape(address)


def _as_folder(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts with the pattern that a trailing slash stands for."""
    if parts[-1] in ("", ".", "..") and not is_pattern(parts[-1]):
        return (*(parts[:-1] if parts[-1] != ".." else parts), TARS)
    return tuple(parts)
