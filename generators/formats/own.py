"""The project's own checkpoints: safetensors with the family and the configuration in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from generators.errors import UnknownFormatError
from generators.families.registry import BY_NAME
from generators.formats.weights import Weights, validated
from generators.generator import Generator

FORMAT = "invertmill-generator"
MAX_ABOUT = 200


def save_generator(generator: Generator, path: Path, *, about: str, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator as safetensors with its family and configuration in the metadata.

    For a BigGAN-deep, all rows of batch-norm statistics are written, so that the truncation is chosen again at load.

    Args:
        generator: of any family.
        path: the file to write.
        about: one sentence on the origin of the weights, shown with the generator.
        dtype: type of the stored weights; float16 halves the file.
    """
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in generator.state_dict().items()}
    config = generator.config.model_dump()
    if config.get("block_channels", ...) is None:  # files stay unchanged, byte for byte
        del config["block_channels"]
    metadata = {
        "format": FORMAT,
        "family": generator.family,
        "config": json.dumps(config),
        "about": about,
    }
    path.write_bytes(_ordered(safetensors.torch.save(tensors, metadata)))


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its header sorted, so that equal generators are equal files.

    The library writes the metadata in a different order at every call.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_own(data: bytes) -> Weights:
    """Return the generator of a safetensors file.

    Raises:
        CheckpointError: it was not written by `save_generator`.
    """
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise UnknownFormatError("is a safetensors file without the configuration of a generator")
    family = BY_NAME.get(str(metadata.get("family")))
    if family is None:
        raise UnknownFormatError(f"holds a generator of the family {str(metadata.get('family'))[:80]!r}")
    config = validated(family.config, json.loads(metadata["config"]))
    return Weights(config, tensors, str(metadata.get("about", ""))[:MAX_ABOUT])
