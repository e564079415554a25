"""StyleGAN2 from rosinality's stylegan2-pytorch: a torch.save file of `g_ema`, and of `latent_avg` where converted.

The weights are those of NVIDIA's networks under other names and with other dimensions of size 1: both scale them at
run time. The multiplier of the mapping network's learning rate is not in the file; it is 0.01, as in all published
files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generators.errors import CheckpointError
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.formats.state_dictionaries import PUBLISHED, StateDictionary, find_state_dictionary
from generators.formats.weights import (
    FILTER,
    Weights,
    check_tensors,
    float32,
    network,
    resample_filters,
    stylegan2_config,
    with_block_channels,
)
from generators.unpickling.records import StoredTensor, brief, named_tensor

MEAN_DRAWS = 10_000
MEAN_BATCH = 1_000
MEAN_SEED = 0
NOISE_SEED = 0
MAX_DRAWN_PX = 4096
"""The largest network for which noise is drawn, so that a small file cannot demand much of it."""

_Sources = Mapping[str, tuple[str, tuple[int, ...]]]


def read_rosinality(content: object) -> Weights:
    """Return the generator `g_ema` of a torch.save file; the rest of the file is ignored.

    Training writes no `latent_avg`; the mean w is then that of 10,000 seeded draws of z. Early files have no
    `noises.*`; the noise is then drawn, with a fixed seed too. Without g_ema, see `find_state_dictionary`.

    Raises:
        CheckpointError: there is no generator in it, or it differs from the published StyleGAN2.
    """
    found = find_state_dictionary(content)
    stored = {name: named_tensor(name, value) for name, value in found.tensors.items()}
    config = _config(stored)
    _check_kernels(config, stored)
    generator = network(config, len(stored))
    assert isinstance(generator, StyleGAN2)
    tensors: dict[str, Tensor | StoredTensor] = dict(resample_filters(generator))
    remarks = _remarks(found)
    drawn = {} if any(name.startswith("noises.") for name in stored) else _noise(config)
    if drawn:
        remarks.append(
            f"noises.* is not in the file: standard normal noise of seed {NOISE_SEED} (generator.noise: none omits it)"
        )
    for name, (source, ones) in sources(config).items():
        if name in drawn:
            tensors[name] = drawn[name]
        else:
            tensors[name] = _without(source, stored[source], ones) if source in stored else _missing(source)
    if found.latent_avg is None:
        tensors["mapping.w_avg"] = _mean_w(generator, tensors)
        remarks.append(f"latent_avg is not in the file: the mean w of {MEAN_DRAWS:,} draws of seed {MEAN_SEED}")
    else:
        tensors["mapping.w_avg"] = _row(named_tensor("latent_avg", found.latent_avg))
    names = {name: found.stored_names.get(source, source) for name, (source, _) in sources(config).items()}
    return Weights(config, tensors, remark="; ".join(remarks), stored_names=names | {"mapping.w_avg": "latent_avg"})


def _remarks(found: StateDictionary) -> list[str]:
    if found.place.split(".")[0] == PUBLISHED:
        return []
    others = f" ({', '.join(map(brief, found.others[:3]))} passed over)" if found.others else ""
    return [
        f"the weights are those of {brief(found.place)}{others}"
        if found.place
        else "the file is a bare state dictionary"
    ]


def _noise(config: StyleGAN2Config) -> dict[str, Tensor]:
    """Return noise buffers for a file without any: the same wherever it is read."""
    if config.img_resolution > MAX_DRAWN_PX:
        raise CheckpointError(
            f"has no noises.* and {config.img_resolution:,} px: noise is drawn for {MAX_DRAWN_PX:,} at most"
        )
    draws = torch.Generator().manual_seed(NOISE_SEED)
    convolutions = [(name, int(name.split(".")[1].removeprefix("b"))) for name, _ in _convolutions(config)]
    return {f"{name}.noise_const": torch.randn(side, side, generator=draws) for name, side in convolutions}


def _row(average: StoredTensor) -> StoredTensor:
    """Return a mean w, which some forks store as `[1, w_dim]`."""
    return average.without(0) if len(average.shape) == 2 and average.shape[0] == 1 else average


def sources(config: StyleGAN2Config) -> _Sources:
    """Return for each tensor its name in g_ema, and which of its dimensions there are dropped.

    The mean w, which is stored next to g_ema, and the resampling filters, which are checked separately, are not listed.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {"synthesis.b4.const": ("input.input", (0,))}
    for i in range(config.mapping_layers):
        for part in ("weight", "bias"):
            found[f"mapping.fc{i}.{part}"] = (f"style.{i + 1}.{part}", ())
    for index, (name, layer) in enumerate(_convolutions(config)):
        found |= _modulated(name, layer)
        found[f"{name}.bias"] = (f"{layer}.activate.bias", ())
        found[f"{name}.noise_strength"] = (f"{layer}.noise.weight", (0,))
        found[f"{name}.noise_const"] = (f"noises.noise_{index}", (0, 1))
    for index, resolution in enumerate(config.block_resolutions):
        layer = f"to_rgbs.{index - 1}" if index else "to_rgb1"
        found |= _modulated(f"synthesis.b{resolution}.torgb", layer)
        found[f"synthesis.b{resolution}.torgb.bias"] = (f"{layer}.bias", (0, 2, 3))
    return found


def kernels(config: StyleGAN2Config) -> list[str]:
    """Return the names of the resampling filters in g_ema."""
    count = len(config.block_resolutions) - 1
    return [f"convs.{2 * i}.conv.blur.kernel" for i in range(count)] + [
        f"to_rgbs.{i}.upsample.kernel" for i in range(count)
    ]


def _convolutions(config: StyleGAN2Config) -> list[tuple[str, str]]:
    names = [f"synthesis.b{r}.conv{i}" for r in config.block_resolutions for i in (0, 1)][1:]
    return [(name, f"convs.{i - 1}" if i else "conv1") for i, name in enumerate(names)]


def _modulated(name: str, layer: str) -> _Sources:
    return {
        f"{name}.weight": (f"{layer}.conv.weight", (0,)),
        f"{name}.affine.weight": (f"{layer}.conv.modulation.weight", ()),
        f"{name}.affine.bias": (f"{layer}.conv.modulation.bias", ()),
    }


def _config(stored: Mapping[str, StoredTensor]) -> StyleGAN2Config:
    """Return the configuration that follows from the shapes."""
    layers = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in stored)
    blocks = 1 + sum(re.fullmatch(r"to_rgbs\.\d+\.conv\.weight", name) is not None for name in stored)
    if blocks > 20:
        raise CheckpointError(f"holds a StyleGAN2 of {blocks} blocks: no published one has more than 9")
    resolution = 2 ** (blocks + 1)
    w_dim, z_dim = _sizes(stored, "style.1.weight", 2)
    channels = [_sizes(stored, f"to_rgb{f's.{i - 1}' if i else '1'}.conv.weight", 5)[2] for i in range(blocks)]
    shape: dict[str, Any] = {"z_dim": z_dim, "w_dim": w_dim, "mapping_layers": layers, "img_resolution": resolution}
    config = stylegan2_config(shape | {"channel_base": channels[-1] * resolution, "channel_max": max(channels)})
    return with_block_channels(config, channels)


def _check_kernels(config: StyleGAN2Config, stored: Mapping[str, StoredTensor]) -> None:
    known = {source for source, _ in sources(config).values()} | set(kernels(config))
    unexpected = sorted(stored.keys() - known)
    if unexpected:
        raise CheckpointError(f"does not fit a StyleGAN2: g_ema has {', '.join(map(brief, unexpected[:5]))} besides")
    taps = torch.tensor(FILTER)
    wanted = torch.outer(taps, taps) / taps.sum() ** 2 * 4  # the gain of upsampling is in the kernel
    for name in kernels(config):
        if name not in stored:
            continue  # BasicSR's networks compute them
        if _sizes(stored, name, 2) != (4, 4) or not torch.allclose(float32(stored[name]), wanted, atol=1e-4):
            raise CheckpointError(f"holds {name} other than that of {FILTER}, which is the only one read")


def _sizes(stored: Mapping[str, StoredTensor], name: str, rank: int) -> tuple[int, ...]:
    found = stored[name].shape if name in stored else _missing(name).shape
    if len(found) != rank:
        raise CheckpointError(f"holds {name} of {list(found)}, where {rank} dimensions are read")
    return found


def _without(name: str, stored: StoredTensor, ones: tuple[int, ...]) -> StoredTensor:
    try:
        return stored.without(*ones)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: {name}") from error


def _missing(name: str) -> StoredTensor:
    raise CheckpointError(f"does not fit a StyleGAN2: g_ema lacks {brief(name)}")


@torch.no_grad()
def _mean_w(generator: StyleGAN2, tensors: Mapping[str, Tensor | StoredTensor]) -> Tensor:
    """Return the mean of w over seeded draws of z, `[w_dim]`; the same wherever the file is read."""
    placeholder = {"mapping.w_avg": torch.empty(generator.w_dim, device="meta")}
    shapes = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    check_tensors(shapes, Weights(generator.config, {**tensors, **placeholder}))
    mapping, prefix = generator.mapping, "mapping."
    weights = {
        name.removeprefix(prefix): float32(tensor) for name, tensor in tensors.items() if name.startswith(prefix)
    }
    mapping.load_state_dict(weights, strict=False, assign=True)
    draws, total = torch.Generator().manual_seed(MEAN_SEED), torch.zeros(generator.w_dim, dtype=torch.float64)
    for _ in range(0, MEAN_DRAWS, MEAN_BATCH):
        total += mapping(torch.randn(MEAN_BATCH, generator.z_dim, generator=draws), None).double().sum(dim=0)
    return (total / MEAN_DRAWS).float()
