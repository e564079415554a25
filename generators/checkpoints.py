"""Reads published checkpoints without running code from them, and the project's own safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

from generators.errors import ArgumentError, CheckpointError, UnknownFormatError
from generators.formats.nvidia import read_nvidia
from generators.formats.own import read_own, save_generator
from generators.formats.weights import Weights, build
from generators.generator import Generator
from generators.pickles import load_pickle
from generators.records import Network
from generators.stylegan2 import Noise

__all__ = ["load_generator", "save_generator"]

MAX_BYTES = 4 * 2**30
"""The largest checkpoint that is read; the largest published one has 0.4 GB."""

READ_TODAY = (
    "read today: invertmill's .safetensors, and the .pkl of StyleGAN2 from NVIDIA's repositories stylegan2-ada-pytorch "
    "and stylegan3"
)

_OPENINGS = {
    b"": "an empty file",
    b"PK\x03\x04": "a zip archive, such as a torch.save file",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9": "a legacy torch.save file",
    b"\x1f\x8b": "a gzip file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for: run `git lfs pull`",
    b"<": "a web page or XML, perhaps a failed download",
}


def load_generator(
    path_or_uri: str | Path,
    device: torch.device | str = "cpu",
    truncation: float = 1.0,
    noise: Noise = "const",
) -> Generator:
    """Return a pretrained generator: frozen, in eval mode, in float32, with `digest` the SHA-256 of its file.

    No code from the file is run. What it is is told by its content, never by its name.

    Args:
        path_or_uri: a local path or `file://` URI.
        device: where to put it.
        truncation: for families whose truncation is fixed when they are loaded (BigGAN-deep's batch-norm statistics);
            StyleGAN2 takes it in `Generator.map`.
        noise: `const` adds the noise buffers of the checkpoint, `none` adds no noise.

    Raises:
        CheckpointError: the file is missing, torn, of a format that is not read, or hostile.
        ValueError: truncation is not 1 for a family that takes it elsewhere, or noise is neither of the two.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise must be one of {', '.join(get_args(Noise))}, got {noise!r}")
    path = _local(path_or_uri)
    data = _read(path)
    generator = _from_bytes(data, path, noise, truncation)
    generator.digest = hashlib.sha256(data).hexdigest()
    return generator.to(device)


def _local(path_or_uri: str | Path) -> Path:
    text = str(path_or_uri)
    if "://" not in text:
        return Path(path_or_uri)
    uri = urlsplit(text)
    if uri.scheme != "file" or uri.netloc not in ("", "localhost"):
        raise CheckpointError(
            f"cannot fetch {text}: checkpoints are read from local paths and file:/// URIs; copy it here first"
        )
    return Path(url2pathname(uri.path))


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"checkpoint {path} is a folder: name a file; {READ_TODAY}")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"checkpoint {path} is no regular file; {READ_TODAY}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"checkpoint {path} has {size:,} bytes: at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error


def _from_bytes(data: bytes, path: Path, noise: Noise, truncation: float) -> Generator:
    try:
        return build(_weights(data), noise, truncation)
    except UnknownFormatError as error:
        raise UnknownFormatError(f"checkpoint {path} {error}; {READ_TODAY}") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} {error}") from error
    except ArgumentError:
        raise
    except Exception as error:  # whatever a hostile file provokes, it is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(f"checkpoint {path} is torn or not as published ({reason})") from error


def _weights(data: bytes) -> Weights:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return read_own(data)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not _opening(data):
        return _from_pickle(data)
    found = _opening(data) or f"of an unknown format, beginning with the bytes {data[:16].hex(' ')}"
    raise UnknownFormatError(f"is {found}")


def _opening(data: bytes) -> str | None:
    known = (what for start, what in _OPENINGS.items() if start and data.startswith(start))
    return next(known, None) if data else _OPENINGS[b""]


def _from_pickle(data: bytes) -> Weights:
    content = load_pickle(data)
    if isinstance(content, tuple) and content and all(isinstance(part, Network) for part in content):
        raise UnknownFormatError(f"is a TensorFlow pickle of {len(content)} networks")
    if not isinstance(content, dict):
        raise UnknownFormatError(f"is a pickle of a {type(content).__name__}, not of a dictionary with G_ema")
    return read_nvidia(content)
