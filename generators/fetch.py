"""Checkpoints from object storage and web servers, each downloaded once and kept in the cache by its digest.

files/SHA256          a file, whole: named by its content, so nothing in it is ever out of date
folders/SHA256/       the files of a folder, under their own names
addresses/KEY.json    which file an address was, and the version (ETag, size) that the server told then
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from generators.cache import VARIABLE, cache_folder, digest_of, keep, one_at_a_time, put, put_link, staged, sweep
from generators.errors import CheckpointError
from generators.remote import ATTEMPTS, BrokenOffError, Remote, inside, open_remote, origin_of, shown

WAIT_S = 0.5
"""Before the second attempt; each further one waits twice as long."""


def fetch(address: str, sha256: str | None, max_bytes: int) -> Path:
    """Return the local path of a file in object storage or on a web server, downloaded unless it is kept already.

    The content under the path is whole, and is what the server has now or what `sha256` says. With `sha256`, a kept
    file is returned without asking the server.

    Args:
        address: `s3://BUCKET/KEY`, `https://…`, or `http://…` of this machine or with `sha256`.
        sha256: what the content must be, in lower-case hexadecimal digits.
        max_bytes: a larger file is refused, before it is downloaded where its size is told.

    Raises:
        CheckpointError: the file cannot be had, is too large or another one, or the cache cannot be written.
    """
    try:
        if sha256 and (path := _kept(sha256)):
            return path
        key = hashlib.sha256(origin_of(address).encode()).hexdigest()
        with one_at_a_time(key):
            return (_kept(sha256) if sha256 else None) or _newest(address, key, sha256, max_bytes)
    except OSError as error:
        raise _cannot_keep(address, error) from error


def fetch_folder(
    address: str, limits: Mapping[str, int], digest_of_files: Callable[..., str], sha256: str | None
) -> Path:
    """Return the local path of a folder with the files that an address ending in `/` holds, fetched as `fetch` does.

    Args:
        address: as for `fetch`; plain http from other machines is not read.
        limits: the most bytes of each file that is wanted, by name.
        digest_of_files: gives the folder's digest for those of its files, in the order of `limits`.
        sha256: what the folder's digest must be; then a kept folder is returned without asking the server.

    Raises:
        CheckpointError: as for `fetch`.
    """
    try:
        folders = cache_folder() / "folders"
        if sha256 and (kept := _digests(folders / sha256, limits)) and digest_of_files(*kept) == sha256:
            return folders / sha256
        paths = {name: fetch(inside(address, name), None, limit) for name, limit in limits.items()}
        found = digest_of_files(*(path.name for path in paths.values()))
        _check(address, found, sha256)
        for name, path in paths.items():
            put_link(folders / found / name, path)
    except OSError as error:
        raise _cannot_keep(address, error) from error
    return folders / found


def _digests(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the digests of the files in a folder; none if one is missing."""
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
    raise CheckpointError(f"cannot fetch {shown(address)}: {reason}, {ATTEMPTS} times; try again later")


def _known(key: str, version: str) -> Path | None:
    """Return the kept file of an address, if the server still tells the version that it was."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads((cache_folder() / "addresses" / f"{key}.json").read_bytes())
        if version and entry["version"] == version:
            return _kept(str(entry["sha256"]))
    return None


def _kept(sha256: str) -> Path | None:
    """Return the kept file of a digest; one that has it no longer is deleted."""
    path = cache_folder() / "files" / sha256
    if not path.is_file():
        return None
    if digest_of(path) == sha256:
        return path
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _download(remote: Remote, address: str, key: str, sha256: str | None, max_bytes: int) -> Path:
    if remote.size is not None and remote.size > max_bytes:
        _refuse_size(address, f"{remote.size:,}", max_bytes)
    files, digest, size = cache_folder() / "files", hashlib.sha256(), 0
    with staged(files) as stream:
        sweep(files)
        for block in remote.blocks:
            size += len(block)
            if size > max_bytes:
                _refuse_size(address, "more", max_bytes)
            digest.update(block)
            stream.write(block)
        if remote.size is not None and remote.size != size:
            raise BrokenOffError(f"the answer broke off after {size:,} of {remote.size:,} bytes")
        found = digest.hexdigest()
        _check(address, found, sha256)
        keep(stream, files / found)
    entry = {"address": shown(address), "version": remote.version, "sha256": found, "bytes": size}
    put(cache_folder() / "addresses" / f"{key}.json", json.dumps(entry).encode())
    return files / found


def _check(address: str, found: str, wanted: str | None) -> None:
    if wanted not in (None, found):
        raise CheckpointError(f"{shown(address)} has the SHA-256 {found}, not {wanted}: it is another one")


def _cannot_keep(address: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot keep {shown(address)} in the cache: {error.strerror or error}: {error.filename}; free space there, or "
        f"set {VARIABLE} to another folder"
    )


def _refuse_size(address: str, size: str, max_bytes: int) -> NoReturn:
    raise CheckpointError(f"{shown(address)} has {size} bytes: at most {max_bytes:,} are read")
