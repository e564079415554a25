"""BigGAN-deep from pytorch-pretrained-BigGAN: a folder with `config.json` and `pytorch_model.bin`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from generators.errors import CheckpointError
from generators.families.biggan_deep import BigGANDeep, BigGANDeepConfig
from generators.formats.weights import (
    Weights,
    biggan_deep_config,
    check_finite,
    check_tensors,
    float32,
    network,
)
from generators.unpickling.records import StoredTensor, expect, named_tensor
from generators.unpickling.torch_file import load_torch_file

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "pytorch_model.bin"
EMBEDDINGS = "embeddings"
IMAGE = "conv_to_rgb"
PREFIX = "generator."
WRAPPER = "module."  # of DataParallel


def read_config(data: bytes) -> BigGANDeepConfig:
    """Return the shape of a generator for the content of `config.json`; raise CheckpointError if it cannot be read."""
    return biggan_deep_config(json.loads(data))


def read_biggan_deep(config: BigGANDeepConfig, data: bytes) -> Weights:
    """Return the generator of a folder, its spectral norms folded into the weights.

    Args:
        config: the result of `read_config`.
        data: the content of `pytorch_model.bin`.

    Raises:
        CheckpointError: the file does not hold a published BigGAN-deep of that shape.
    """
    content = expect(dict, load_torch_file(data), "its content")
    tensors = {name: named_tensor(name, value) for name, value in content.items()}
    if all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    generator = network(config, len(tensors))
    assert isinstance(generator, BigGANDeep)
    check_tensors(published_shapes(generator), Weights(config, tensors))
    names = {name: _published(name) for name in generator.state_dict()}
    return Weights(config, dict(_folded(generator, tensors)), stored_names=names)


def folder_digest(config_sha256: str, weights_sha256: str) -> str:
    """Return the digest of a folder from those of its files: `sha256sum config.json pytorch_model.bin | sha256sum`."""
    lines = f"{config_sha256}  {CONFIG_FILE}\n{weights_sha256}  {WEIGHTS_FILE}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def published_shapes(generator: BigGANDeep) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in the published file of a generator.

    A layer under spectral norm has, instead of its weight, the raw weight and the first singular vectors of its
    matrix `[outputs, the rest]`. The last convolution has as many outputs as inputs; the first
    three are the image.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    normed = {f"{name}.weight" for name in _normed(generator)}
    for name, tensor in generator.state_dict().items():
        sizes = tuple(tensor.shape)
        if name.startswith(f"{IMAGE}."):
            sizes = (generator.config.channel_width, *sizes[1:])
        published = _published(name)
        if name in normed:
            shapes |= {f"{published}_orig": sizes, f"{published}_u": sizes[:1]}
            shapes[f"{published}_v"] = (tensor[0].numel(),)
        else:
            shapes[published] = sizes
    return shapes


# Miyato et al. 2018: W / σ, with σ = uᵀ W v
def _folded(generator: BigGANDeep, tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    normed = {f"{name}.weight" for name in _normed(generator)}
    for name, wanted in generator.state_dict().items():
        published = _published(name)
        if name in normed:
            weight, u, v = (float32(tensors[f"{published}_{part}"]) for part in ("orig", "u", "v"))
            for part, numbers in (("orig", weight), ("u", u), ("v", v)):
                check_finite(f"{published}_{part}", numbers)
            sigma = torch.dot(u, torch.mv(weight.flatten(1), v))
            if not bool(sigma.isfinite()) or sigma == 0:
                raise CheckpointError(f"holds {published} with a spectral norm of {float(sigma)}")
            weight = weight / sigma
        else:
            weight = float32(tensors[published])
        yield name, weight[: len(wanted)] if name.startswith(f"{IMAGE}.") else weight


def _normed(generator: BigGANDeep) -> set[str]:
    """Return the names of the layers under spectral norm: all but the class embedding."""
    layers = (name for name, layer in generator.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    return {name for name in layers if name != EMBEDDINGS}


def _published(name: str) -> str:
    return name if name.startswith(f"{EMBEDDINGS}.") else PREFIX + name
