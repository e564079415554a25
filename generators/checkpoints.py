"""Read published checkpoints without running code from them, and the project's own safetensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

from generators.errors import ArgumentError, CheckpointError, UnknownFormatError
from generators.families.registry import check_options
from generators.formats.biggan_deep import CONFIG_FILE, WEIGHTS_FILE, folder_digest, read_biggan_deep, read_config
from generators.formats.content import READ_TODAY, read_weights
from generators.formats.own import save_generator
from generators.formats.weights import build
from generators.generator import Generator
from infra.errors import FetchError
from infra.fetching.fetch import fetch, fetch_folder
from infra.fetching.remote import SCHEMES
from infra.fetching.uri import names_folder, scheme_of, shown

__all__ = ["load_generator", "save_generator"]

MAX_BYTES = 4 * 2**30
"""The largest checkpoint that is read; the largest published one has 0.4 GB."""

MAX_CONFIG_BYTES = 2**20
"""The largest configuration file of a checkpoint that is read; the published ones have less than 1 kB."""

_SHA256 = re.compile("[0-9a-fA-F]{64}")


def load_generator(
    path_or_uri: str | Path,
    device: torch.device | str = "cpu",
    truncation: float = 1.0,
    noise: str = "const",
    *,
    sha256: str | None = None,
    **options: object,
) -> Generator:
    """Return a pretrained generator: frozen, in eval mode, in float32, with `digest` the SHA-256 of its file.

    No code from the file is run. Its content decides the format, never its name. A folder is that of a
    BigGAN-deep; its digest is that of `sha256sum config.json pytorch_model.bin | sha256sum`.

    Args:
        path_or_uri: a local path, or an address: `file://`, `s3://BUCKET/KEY`, `https://` (`http://` of this machine,
            or with `sha256`); one that ends in `/` is a folder. Fetched files are kept in the cache,
            `$INVERTMILL_CACHE` or `~/.cache/invertmill`.
        device: where to put it.
        truncation: for families whose truncation is fixed when they are loaded (BigGAN-deep's batch-norm statistics);
            StyleGAN2 takes it in `Generator.map`.
        noise: `const` adds the noise buffers of the checkpoint, `none` adds no noise.
        sha256: expected `digest` of the generator; with it, a cached copy needs no server.
        **options: options of other families, by name (`generators/families`).

    Raises:
        CheckpointError: the file is missing, truncated, different from `sha256`, of a format that is not read, or
            hostile.
        ValueError: an option is unknown or its value not among those offered, or truncation is not 1 for a family that
            takes it elsewhere.
    """
    options = {"truncation": truncation, "noise": noise, **options}
    check_options(options)
    wanted = None if sha256 is None else checked_sha256(sha256)
    path = local_path(path_or_uri, wanted)
    try:
        generator = (_from_folder if path.is_dir() else _from_file)(path, options, wanted)
    except CheckpointError as error:
        if scheme_of(str(path_or_uri)) not in SCHEMES:
            raise
        raise type(error)(f"{error}; it was fetched from {shown(path_or_uri)}") from error
    return generator.to(device)


def checked_sha256(sha256: str) -> str:
    """Return a digest in lower case; raise ArgumentError if it is not one."""
    if not _SHA256.fullmatch(sha256):
        raise ArgumentError(f"sha256 must be 64 hexadecimal digits, got {sha256[:80]!r}")
    return sha256.lower()


def local_path(path_or_uri: str | Path, sha256: str | None, noun: str = "checkpoint", limit: int | None = None) -> Path:
    """Return where a checkpoint, or another file, is on this machine, fetched through the cache if it is elsewhere.

    Raises:
        CheckpointError: it cannot be fetched, is over `limit` (by default `MAX_BYTES`), or its digest is not `sha256`.
    """
    try:
        return _fetched(path_or_uri, sha256, noun, MAX_BYTES if limit is None else limit)
    except FetchError as error:
        raise CheckpointError(str(error)) from error


def _fetched(path_or_uri: str | Path, sha256: str | None, noun: str, limit: int) -> Path:
    text = str(path_or_uri)
    scheme = scheme_of(text)
    if not scheme:
        return Path(path_or_uri)
    if scheme in SCHEMES and names_folder(text):
        return fetch_folder(text, {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: MAX_BYTES}, folder_digest, sha256)
    if scheme in SCHEMES:
        return fetch(text, sha256, limit)
    uri = urlsplit(text)
    if scheme != "file" or uri.netloc not in ("", "localhost"):
        raise CheckpointError(
            f"cannot fetch {text}: {noun}s are read from local paths, file:///…, s3://… and https://…; copy it "
            "to one of these first"
        )
    return Path(url2pathname(uri.path))


def read_file(path: Path, limit: int | None = None, read_today: str = READ_TODAY, noun: str = "checkpoint") -> bytes:
    """Return a checkpoint's bytes, or another file's; raise CheckpointError if it is missing or over `limit`."""
    limit = MAX_BYTES if limit is None else limit
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{noun} {path} is not a regular file; {read_today}")
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{noun} {path} has {size:,} bytes: at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{noun} {path} cannot be read: {error.strerror or error}") from error


def _from_file(path: Path, options: Mapping[str, object], sha256: str | None) -> Generator:
    data = read_file(path)
    digest = checked_digest(path, hashlib.sha256(data).hexdigest(), sha256)
    with blaming(path):
        generator = build(read_weights(data), options)
    generator.digest = digest
    return generator


def _from_folder(folder: Path, options: Mapping[str, object], sha256: str | None) -> Generator:
    paths = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if missing := [path.name for path in paths if not path.exists()]:
        raise CheckpointError(f"checkpoint {folder} is a folder without {' and '.join(missing)}; {READ_TODAY}")
    config_data, data = read_file(paths[0], MAX_CONFIG_BYTES), read_file(paths[1])
    digests = (hashlib.sha256(content).hexdigest() for content in (config_data, data))
    digest = checked_digest(folder, folder_digest(*digests), sha256)
    with blaming(paths[0]):
        config = read_config(config_data)
    with blaming(paths[1]):
        weights = replace(read_biggan_deep(config, data), format="BigGAN-deep folder")
        generator = build(weights, options)
    generator.digest = digest
    return generator


def checked_digest(path: Path, found: str, wanted: str | None) -> str:
    """Return the digest of a checkpoint; raise CheckpointError if it is not the expected one."""
    if wanted not in (None, found):
        raise CheckpointError(f"SHA-256 mismatch for checkpoint {path}: expected {wanted}, got {found}")
    return found


@contextmanager
def blaming(path: Path, read_today: str = READ_TODAY) -> Iterator[None]:
    """Turn what a file's content provokes into a CheckpointError that names the file."""
    try:
        yield
    except UnknownFormatError as error:
        raise UnknownFormatError(f"checkpoint {path} {error}; {read_today}") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} {error}") from error
    except ArgumentError:
        raise
    except Exception as error:  # whatever a hostile file provokes is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(f"checkpoint {path} is truncated or not as published ({reason})") from error
