"""The project's own checkpoints: safetensors with the configuration in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from generators.errors import UnknownFormatError
from generators.formats.weights import Weights, stylegan2_config
from generators.stylegan2 import StyleGAN2

FORMAT = "invertmill-generator"
MAX_ABOUT = 200


def save_generator(generator: StyleGAN2, path: Path, *, about: str, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator as safetensors with its configuration in the metadata.

    Args:
        generator: what to write.
        path: the file to make.
        about: one sentence on where the weights come from; shown wherever the generator is.
        dtype: type of the stored weights; float16 halves the file.
    """
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in generator.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "family": generator.family,
        "config": json.dumps(generator.config.model_dump()),
        "about": about,
    }
    safetensors.torch.save_file(tensors, path, metadata)


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
    if metadata.get("family") != StyleGAN2.family:
        raise UnknownFormatError(f"holds a generator of the family {str(metadata.get('family'))[:80]!r}")
    config = stylegan2_config(json.loads(metadata["config"]))
    return Weights(config, tensors, str(metadata.get("about", ""))[:MAX_ABOUT])
