"""The common result of every format: a configuration, named tensors, and the network that they fit exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from generators.errors import CheckpointError
from generators.families.biggan_deep import BigGANDeepConfig
from generators.families.registry import FAMILIES, family_of, options_for
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from generators.unpickling.records import StoredTensor, brief

FILTER = (1.0, 3.0, 3.0, 1.0)
SHARED_BYTES = 2**20
"""Bytes that tensors may share, such as small constants."""
NO_OPTIONS: Mapping[str, object] = {}
_Config = TypeVar("_Config", bound=BaseModel)


@dataclass(frozen=True)
class Weights:
    """The content of a checkpoint, by the names of our networks; the configuration decides the family."""

    config: BaseModel
    tensors: Mapping[str, Tensor | StoredTensor]
    about: str = ""
    format: str = ""
    remark: str = ""
    """What is missing from the file, and what replaces it."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """The name of each tensor in the file, if it differs."""


def stylegan2_config(values: object) -> StyleGAN2Config:
    """Return a validated configuration; raise CheckpointError for the first unreadable value."""
    return validated(StyleGAN2Config, values)


def biggan_deep_config(values: object) -> BigGANDeepConfig:
    """Return a validated configuration; raise CheckpointError for the first unreadable value."""
    return validated(BigGANDeepConfig, values)


def build(weights: Weights, options: Mapping[str, object] = NO_OPTIONS) -> Generator:
    """Return the generator of these weights; nothing is allocated before names and shapes are known to fit.

    Raises:
        CheckpointError: the tensors differ from the configuration, or hold NaN or infinite numbers.
        ArgumentError: the family refuses an option.
    """
    generator = network(weights.config, len(weights.tensors), options)
    check_tensors({name: tensor.shape for name, tensor in generator.state_dict().items()}, weights)
    loaded = {name: float32(tensor) for name, tensor in weights.tensors.items()}
    for name, tensor in loaded.items():
        check_finite(weights.stored_names.get(name, name), tensor)
    _check_filters(loaded)
    generator.load_state_dict(loaded, strict=True, assign=True)
    generator.about, generator.format, generator.remark = weights.about, weights.format, weights.remark
    return generator.freeze()


def network(config: BaseModel, tensors: int, options: Mapping[str, object] = NO_OPTIONS) -> Generator:
    """Return the network of a configuration on the meta device, where it takes no memory.

    Args:
        config: of any family.
        tensors: number of tensors in the checkpoint; a network with more layers is not built.
        options: of `generators.load_generator`, by name.

    Raises:
        CheckpointError: the configuration announces more layers than there are tensors.
        ArgumentError: the family refuses an option.
    """
    family = family_of(config)
    layers, announced = family.layers(config)
    if layers > tensors:
        raise CheckpointError(f"announces {announced}, but holds only {tensors} tensors")
    with torch.device("meta"):
        return family.build(config, options_for(family, options))


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise CheckpointError if a tensor holds NaN or infinite numbers: no image can be made with them."""
    if bool(tensor.sum().isfinite()):  # one pass without a copy; a sum of finite numbers may overflow
        return
    odd = tensor.numel() - int(tensor.isfinite().sum())
    if odd:
        raise CheckpointError(
            f"holds {brief(name)} with {odd:,} of {tensor.numel():,} numbers NaN or infinite: the training collapsed, "
            "or the file is damaged; use an earlier snapshot"
        )


def with_block_channels(config: StyleGAN2Config, found: Sequence[int]) -> StyleGAN2Config:
    """Return a configuration with the channels of the tensors, first to last, if they differ from the formula."""
    wanted = [config.channels(resolution) for resolution in config.block_resolutions]
    if list(found) == wanted or len(found) != len(wanted):
        return config
    return stylegan2_config({**config.model_dump(), "block_channels": tuple(found)})


def check_tensors(wanted: Mapping[str, Sequence[int]], weights: Weights) -> None:
    """Raise CheckpointError unless the tensors have exactly these names and shapes, and are floating-point numbers."""
    check_fit(family_of(weights.config).title, wanted, weights.tensors)
    check_shared(weights.tensors)


def check_fit(title: str, wanted: Mapping[str, Sequence[int]], found: Mapping[str, Tensor | StoredTensor]) -> None:
    """Raise CheckpointError unless tensors have exactly these names and shapes, and are floating-point numbers.

    Args:
        title: what messages call the network.
        wanted: shapes by name.
        found: tensors by name.
    """
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"does not fit a {title}: it lacks {_names(missing)}, and has {_names(unexpected)} besides"
        )
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(wanted[name]):
            raise CheckpointError(f"holds {name} of {list(tensor.shape)}, not the {list(wanted[name])} it announces")
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"holds {name} as {tensor.dtype}, not as floating-point numbers")


def check_shared(tensors: Mapping[str, Tensor | StoredTensor]) -> None:
    """Raise CheckpointError if tensors that are still in their file announce more numbers than the file holds.

    Otherwise all tensors of a small file could be the same numbers, and copies of them fill the memory.
    """
    stored = [tensor for tensor in tensors.values() if isinstance(tensor, StoredTensor)]
    announced = sum(tensor.size for tensor in stored)
    there, end = 0, 0
    for start, size in sorted({(tensor.storage.address, tensor.storage.size) for tensor in stored}):
        there += max(0, start + size - max(start, end))
        end = max(end, start + size)
    if announced > there + SHARED_BYTES:
        raise CheckpointError(f"announces tensors of {announced:,} bytes, but holds {there:,}")


def resample_filters(generator: StyleGAN2) -> dict[str, Tensor]:
    """Return the resampling filters of a network whose checkpoint format does not store them as tensors."""
    taps = torch.tensor(FILTER) / sum(FILTER)
    names = (name for name in generator.state_dict() if name.endswith("resample_filter"))
    return {name: torch.outer(taps, taps) for name in names}


def float32(stored: Tensor | StoredTensor) -> Tensor:
    """Return a tensor, from its file if it is still there, in float32."""
    tensor = stored.tensor() if isinstance(stored, StoredTensor) else stored
    return tensor.to(torch.float32)


def validated(kind: type[_Config], values: object) -> _Config:
    """Return a validated configuration; raise CheckpointError for the first unreadable value."""
    title = next(family.title for family in FAMILIES if family.config is kind)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part)[:80] for part in first["loc"]) or "configuration"
        raise CheckpointError(f"holds a {title} that is not read: {name}: {first['msg'][:300]}") from None


def _check_filters(tensors: Mapping[str, Tensor]) -> None:
    taps = torch.tensor(FILTER) / sum(FILTER)
    for name, tensor in tensors.items():
        if name.endswith("resample_filter") and not torch.allclose(tensor, torch.outer(taps, taps), atol=1e-4):
            raise CheckpointError(f"holds {name} other than that of {FILTER}, which is the only one read")


def _names(names: Sequence[str]) -> str:
    few = ", ".join(map(brief, names[:5]))
    return f"{few} and {len(names) - 5} more" if len(names) > 5 else few or "nothing"
