"""The stores by their addresses: `open_store`, and the shards that an input address names."""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from infra.errors import NotFoundError, StoreError
from infra.folder import FolderStore
from infra.patterns import expand_braces, has_wildcard, literal_part, pattern_regex
from infra.s3 import S3Options, S3Store
from infra.store import Entry, Store

__all__ = ["Entry", "FolderStore", "S3Options", "S3Store", "Store", "find", "open_store", "split_glob"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,}")
_SPECIAL = re.compile(r"[*?\[{]")
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
            raise StoreError(f"a file address names no other machine, got {url!r}; write file:///FOLDER")
        return FolderStore(unquote(parts.path))
    if scheme[1].lower() != "s3":
        raise StoreError(
            f"stores are s3://BUCKET/PREFIX or folders, got {url!r}; other services are reached through their "
            "S3-compatible endpoint (endpoint_url)"
        )
    bucket, _, prefix = url[len(scheme[0]) :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreError(f"an S3 address is s3://BUCKET/PREFIX, with the bucket's exact name, got {url!r}")
    return S3Store(bucket, prefix, options)


def split_glob(url: str) -> tuple[str, tuple[str, ...]]:
    """Return the store's address and the patterns, relative to it, that an input address stands for.

    `data/*.tar` gives `("data", ("*.tar",))`; a brace list gives one pattern an element; a plain address gives its
    parent and its name; one that ends in `/` means every `.tar` in that folder. Raises `StoreError` if a brace is not
    closed or nothing is named.
    """
    if url.endswith("/"):
        url += "*.tar"
    special = _SPECIAL.search(url)
    fixed = url[: special.start()] if special else url
    scheme = _SCHEME.match(fixed)
    cut = fixed.rfind("/") + 1
    if cut < (scheme.end() if scheme else 0) or not url[cut:]:
        raise StoreError(f"an input address names shards, as in s3://BUCKET/PREFIX/*.tar or FOLDER/*.tar, got {url!r}")
    if scheme and scheme[1].lower() == "s3" and cut <= scheme.end():
        raise StoreError(f"an input address names shards inside one bucket, as in s3://BUCKET/*.tar, got {url!r}")
    root = fixed[:cut]
    trimmed = root if root.endswith((":///", "://")) else root.rstrip("/") or root[:1]
    return trimmed or ".", expand_braces(url[cut:])


def find(store: Store, patterns: Sequence[str]) -> list[Entry]:
    """Return the objects that match any of the patterns, sorted by name, each once.

    Raises `NotFoundError` if a pattern without wildcards names nothing: a shard that was asked for by name and is
    missing must not go unnoticed.
    """
    found: dict[str, Entry] = {}
    for folder in sorted({literal_part(pattern).rpartition("/")[0] for pattern in patterns}):
        inside = [pattern for pattern in patterns if literal_part(pattern).rpartition("/")[0] == folder]
        found.update(_find_inside(store, inside))
    return [found[name] for name in sorted(found)]


def _find_inside(store: Store, patterns: Sequence[str]) -> dict[str, Entry]:
    """Return what matches patterns that share a folder, by name, with one listing."""
    names = {pattern for pattern in patterns if not has_wildcard(pattern)}
    expressions = [pattern_regex(pattern) for pattern in patterns if has_wildcard(pattern)]
    entries = {entry.name: entry for entry in store.list(_common_prefix(patterns))}
    missing = sorted(names - entries.keys())
    if missing:
        raise NotFoundError(
            f"{len(missing)} of the named shards are not in {store.url}, the first is {missing[0]!r}; correct the "
            "address, or put them there"
        )
    return {
        name: entry
        for name, entry in entries.items()
        if name in names or any(expression.fullmatch(name) for expression in expressions)
    }


def _common_prefix(patterns: Sequence[str]) -> str:
    """Return what every name that matches any of the patterns begins with."""
    literals = [literal_part(pattern) for pattern in patterns]
    lowest, highest = min(literals), max(literals)
    length = next((i for i, (a, b) in enumerate(zip(lowest, highest, strict=False)) if a != b), len(lowest))
    return lowest[:length]
