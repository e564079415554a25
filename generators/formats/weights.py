"""What every format comes down to: a configuration, named tensors, and the network that they fit into exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from generators.errors import ArgumentError, CheckpointError
from generators.records import StoredTensor, brief
from generators.stylegan2 import Noise, StyleGAN2, StyleGAN2Config

FILTER = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class Weights:
    """What a checkpoint of StyleGAN2 holds, in the names of NVIDIA's implementations."""

    config: StyleGAN2Config
    tensors: Mapping[str, Tensor | StoredTensor]
    about: str = ""


def stylegan2_config(values: object) -> StyleGAN2Config:
    """Return a validated configuration; raises CheckpointError naming the first value that is not read."""
    try:
        return StyleGAN2Config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part)[:80] for part in first["loc"]) or "configuration"
        raise CheckpointError(f"holds a StyleGAN2 that is not read: {name}: {first['msg'][:300]}") from None


def build(weights: Weights, noise: Noise, truncation: float) -> StyleGAN2:
    """Return the generator of these weights; nothing is allocated before names and shapes are known to fit."""
    if truncation != 1.0:
        raise ArgumentError(f"a StyleGAN2 is truncated where z is mapped: use G.map(z, truncation={truncation})")
    config, tensors = weights.config, weights.tensors
    if config.mapping_layers + config.img_resolution.bit_length() > len(tensors):
        raise CheckpointError(
            f"announces {config.mapping_layers} mapping layers and {config.img_resolution} px, but holds only "
            f"{len(tensors)} tensors"
        )
    with torch.device("meta"):
        generator = StyleGAN2(config, noise)
    _check_tensors(generator.state_dict(), tensors)
    loaded = {name: _float32(tensor) for name, tensor in tensors.items()}
    _check_filters(loaded)
    generator.load_state_dict(loaded, strict=True, assign=True)
    generator.about = weights.about
    return generator.requires_grad_(False).eval()


def _check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | StoredTensor]) -> None:
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"does not fit a StyleGAN2: it lacks {_names(missing)}, and has {_names(unexpected)} besides"
        )
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(wanted[name].shape):
            raise CheckpointError(
                f"holds {name} of {list(tensor.shape)}, not the {list(wanted[name].shape)} it announces"
            )
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"holds {name} as {tensor.dtype}, not as floating-point numbers")


def _float32(stored: Tensor | StoredTensor) -> Tensor:
    tensor = stored.tensor() if isinstance(stored, StoredTensor) else stored
    return tensor.to(torch.float32)


def _check_filters(tensors: Mapping[str, Tensor]) -> None:
    taps = torch.tensor(FILTER) / sum(FILTER)
    for name, tensor in tensors.items():
        if name.endswith("resample_filter") and not torch.allclose(tensor, torch.outer(taps, taps), atol=1e-4):
            raise CheckpointError(f"holds {name} other than that of {FILTER}, which is the only one read")


def _names(names: Sequence[str]) -> str:
    few = ", ".join(map(brief, names[:5]))
    return f"{few} and {len(names) - 5} more" if len(names) > 5 else few or "nothing"
