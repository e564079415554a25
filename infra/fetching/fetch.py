"""Files from object storage and web servers, each downloaded once and kept in the cache by its digest.

files/SHA256          a complete file, named by its content, so it is never out of date
folders/SHA256/       the files of a folder, under their own names
addresses/KEY.json    the file last fetched from an address, and its version (ETag, size) on the server
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from infra.errors import FetchError
from infra.fetching.cache import VARIABLE, cache_folder, file_path, kept_file, one_at_a_time
from infra.fetching.remote import BrokenOffError, Remote, open_object, open_remote, origin_of
from infra.fetching.uri import inside, shown
from infra.files import digest_of, partial_file, publish, put, put_link
from infra.stores.storage import Store

ATTEMPTS = 4
WAIT_S = 0.5
"""Pause before the second attempt; each further attempt waits twice as long."""


def fetch(address: str, sha256: str | None, max_bytes: int) -> Path:
    """Return the local path of a file in object storage or on a web server; it is downloaded if it is not in the cache.

    The file is complete, and is the server's current one or has the digest `sha256`. With `sha256`, a cached file is
    returned without asking the server.

    Args:
        address: `s3://BUCKET/KEY`, `https://…`, or `http://…` of this machine or with `sha256`.
        sha256: expected digest, in lower-case hexadecimal digits.
        max_bytes: a larger file is refused, before the download if the server gives its size.

    Raises:
        FetchError: the file is unavailable or too large, its digest is not `sha256`, or the cache cannot be written.
    """
    try:
        if sha256 and (path := kept_file(sha256)):
            return path
        key = hashlib.sha256(origin_of(address).encode()).hexdigest()
        with one_at_a_time(key):
            return (kept_file(sha256) if sha256 else None) or _newest(address, key, sha256, max_bytes)
    except OSError as error:
        raise _cannot_keep(address, error) from error


def fetch_folder(
    address: str, limits: Mapping[str, int], digest_of_files: Callable[..., str], sha256: str | None
) -> Path:
    """Return the local path of a folder with the files under an address that ends in `/`, fetched as `fetch` does.

    Args:
        address: as for `fetch`; plain http from other machines is not read.
        limits: the names of the files to fetch, and the maximum size of each, in bytes.
        digest_of_files: returns the folder's digest for the digests of its files, in the order of `limits`.
        sha256: expected digest of the folder; a folder in the cache is then returned without asking the server.

    Raises:
        FetchError: as for `fetch`.
    """
    try:
        folders = cache_folder() / "folders"
        if sha256 and (kept := _digests(folders / sha256, limits)) and digest_of_files(*kept) == sha256:
            return folders / sha256
        paths = {name: fetch(inside(address, name), None, limit) for name, limit in limits.items()}
        digest = digest_of_files(*(path.name for path in paths.values()))
        _check(address, digest, sha256)
        for name, path in paths.items():
            put_link(folders / digest / name, path)
    except OSError as error:
        raise _cannot_keep(address, error) from error
    return folders / digest


def fetch_stored(store: Store, name: str, sha256: str) -> Path:
    """Return the local path of a file in a store, from the cache or downloaded into it.

    Raises:
        NotFoundError: neither the cache nor the store has it.
        FetchError: its digest is not `sha256`, the store is unavailable, or the cache cannot be written.
    """
    address = f"{store.url}/{name}"
    try:
        with one_at_a_time(sha256):
            if path := kept_file(sha256):
                return path
            with open_object(store, name, address) as remote:
                return _save(remote, address, sha256, sha256, None)
    except BrokenOffError as error:
        raise FetchError(f"cannot fetch {address}: {error}; try again later") from error
    except OSError as error:
        raise _cannot_keep(address, error) from error


def fetch_stored_folder(store: Store, name: str, sha256: str, files: Mapping[str, str]) -> Path:
    """Return the local path of a folder in a store, fetched as `fetch_stored` fetches files.

    Args:
        store: where it is.
        name: of the folder in the store.
        sha256: under which the cache keeps the folder.
        files: the SHA-256 of each of its files, by name.
    """
    folder = cache_folder() / "folders" / sha256
    for file, digest in files.items():
        path = fetch_stored(store, f"{name}/{file}", digest)
        if not ((folder / file).is_file() and digest_of(folder / file) == digest):
            put_link(folder / file, path)
    return folder


def _digests(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the digests of the files in a folder; an empty list if a file is missing."""
    paths = [folder / name for name in names]
    return [digest_of(path) for path in paths] if all(path.is_file() for path in paths) else []


def _newest(address: str, key: str, sha256: str | None, max_bytes: int) -> Path:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT_S * 2 ** (attempt - 1))
        try:
            with open_remote(address, trusted=sha256 is not None) as remote:
                path = _known(key, remote.version) or _download(remote, address, key, sha256, max_bytes)
        except BrokenOffError as error:
            reason = str(error)
        else:
            _check(address, path.name, sha256)
            return path
    raise FetchError(f"cannot fetch {shown(address)}: {reason}, {ATTEMPTS} times; try again later")


def _known(key: str, version: str) -> Path | None:
    """Return the file last fetched from an address, if the server still has that version and the file is whole."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads((cache_folder() / "addresses" / f"{key}.json").read_bytes())
        if version and entry["version"] == version:
            return kept_file(str(entry["sha256"]))
    return None


def _download(remote: Remote, address: str, key: str, sha256: str | None, max_bytes: int) -> Path:
    if remote.size is not None and remote.size > max_bytes:
        _refuse_size(address, f"{remote.size:,}", max_bytes)
    path = _save(remote, address, key, sha256, max_bytes)
    entry = {"address": shown(address), "version": remote.version, "sha256": path.name, "bytes": path.stat().st_size}
    put(cache_folder() / "addresses" / f"{key}.json", json.dumps(entry).encode())
    return path


def _save(remote: Remote, address: str, key: str, sha256: str | None, max_bytes: int | None) -> Path:
    """Write a file elsewhere into the cache and return its path; `key` names it while it is written."""
    digest, size = hashlib.sha256(), 0
    with partial_file(file_path(key)) as partial:
        with partial.open("wb") as stream:
            for block in remote.blocks:
                size += len(block)
                if max_bytes is not None and size > max_bytes:
                    _refuse_size(address, "more", max_bytes)
                digest.update(block)
                stream.write(block)
        if remote.size is not None and remote.size != size:
            raise BrokenOffError(f"the answer broke off after {size:,} of {remote.size:,} bytes")
        _check(address, digest.hexdigest(), sha256)
        path = file_path(digest.hexdigest())
        publish(partial, path)
    return path


def _check(address: str, sha256: str, expected: str | None) -> None:
    if expected not in (None, sha256):
        raise FetchError(f"SHA-256 mismatch for {shown(address)}: expected {expected}, got {sha256}")


def _cannot_keep(address: str, error: OSError) -> FetchError:
    return FetchError(
        f"cannot keep {shown(address)} in the cache: {error.strerror or error}: {error.filename}; free space there, or "
        f"set {VARIABLE} to another folder"
    )


def _refuse_size(address: str, size: str, max_bytes: int) -> NoReturn:
    raise FetchError(f"{shown(address)} has {size} bytes: at most {max_bytes:,} are read")
