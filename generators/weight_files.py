"""Files of named tensors, safetensors or torch.save, read without running code from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from generators.errors import CheckpointError
from generators.unpickling.records import StoredTensor
from generators.unpickling.torch_file import LEGACY, ZIP, load_torch_file
from infra.files import digest_of

__all__ = ["WeightFile", "digest_of", "read_state", "read_weight_file"]

MAX_BYTES = 4 * 2**30
"""The largest file that is read; the largest published one has 0.6 GB."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of tensors."""

    tensors: dict[str, Tensor]
    sha256: str  # of the whole file
    metadata: dict[str, str] = field(default_factory=dict)  # of safetensors


def read_weight_file(path: Path, ignored: str = "") -> WeightFile:
    """Return the tensors of a file, on the CPU; its format is detected from its content, never from its name.

    Args:
        path: the file.
        ignored: prefix of tensors that are not needed, which then take no memory.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is unreadable, truncated, hostile, or not a dictionary of tensors.
    """
    data = _read(path)
    if data.startswith((ZIP, LEGACY)):
        return WeightFile(_from_torch(data, ignored), sha256(data).hexdigest())
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"is neither a .safetensors nor a torch.save file ({error})") from error
    kept = {name: tensor for name, tensor in tensors.items() if not ignored or not name.startswith(ignored)}
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return WeightFile(kept, sha256(data).hexdigest(), metadata)


def read_state(data: bytes, device: torch.device) -> object:
    """Return what torch.save wrote, with its tensors on a device, in plain containers.

    Raises:
        CheckpointError: the data is truncated, hostile, or not of torch.save.
    """
    return _on_device(load_torch_file(data), device)


def _on_device(value: object, device: torch.device) -> object:
    if isinstance(value, StoredTensor):
        return value.tensor().to(device)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_device(item, device) for item in value)
    return value


def _from_torch(data: bytes, ignored: str) -> dict[str, Tensor]:
    content = load_torch_file(data)
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not a dictionary of tensors: save the state_dict")
    return {
        str(name): value.tensor()
        for name, value in content.items()
        if isinstance(value, StoredTensor) and not (ignored and str(name).startswith(ignored))
    }


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"has {size:,} bytes: at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
