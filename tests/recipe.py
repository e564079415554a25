"""Weights by recipe: what the golden data describes instead of ships."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config


def normal(key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return standard normal numbers that depend on the key only."""
    return np.random.default_rng(zlib.crc32(f"pub:{key}".encode())).standard_normal(shape)


def golden_generator(shared: Path, name: str) -> StyleGAN2:
    """Return a generator of `golden/2_sam` with its mapping weights and large noise buffers made by recipe."""
    return recipe_generator(shared / "golden/2_sam", name)


def recipe_generator(folder: Path, name: str) -> StyleGAN2:
    """Return the same for the folder of the reference data that holds it."""
    arguments = json.loads((folder / f"{name}.json").read_text())["init_kwargs"]
    config = {key: arguments[key] for key in ("z_dim", "w_dim", "img_resolution", "channel_base", "channel_max")}
    generator = StyleGAN2(StyleGAN2Config(**config))
    tensors = load_file(folder / f"{name}.partial.safetensors")
    for key, tensor in generator.state_dict().items():
        if key not in tensors:
            numbers = 100 * normal(key, tensor.shape) if "mapping" in key else normal(f"{name[:4]}:{key}", tensor.shape)
            tensors[key] = torch.from_numpy(numbers.astype(np.float32))
    generator.load_state_dict(tensors)
    return generator.freeze()


def vgg_trunk() -> dict[str, torch.Tensor]:
    """Return the weights of the VGG-16 trunk that the golden distances were made with."""
    convolutions = {
        0: (64, 3),
        2: (64, 64),
        5: (128, 64),
        7: (128, 128),
        10: (256, 128),
        12: (256, 256),
        14: (256, 256),
    }
    convolutions |= {17: (512, 256)} | dict.fromkeys((19, 21, 24, 26, 28), (512, 512))
    trunk = {}
    for index, (outputs, inputs) in convolutions.items():
        key = f"features.{index}"
        weight = normal(f"{key}.weight", (outputs, inputs, 3, 3)) * np.sqrt(2 / (inputs * 9))
        trunk[f"{key}.weight"] = torch.from_numpy(weight.astype(np.float32))
        trunk[f"{key}.bias"] = torch.from_numpy((0.05 * normal(f"{key}.bias", (outputs,))).astype(np.float32))
    return trunk


def segmenter_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of the authors' segmenter."""
    n = normal(key, shape)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif len(shape) > 1:
        n = 2 * n / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("weight"):
        n = 0.5 + 0.1 * n
    else:
        n = 0.1 * n
    return torch.tensor(n.astype(np.float32))


def published_heads(spaces: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the authors' heads: transposed convolutions, which are convolutions with the kernel turned around."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (8, 4, 3, 3), "3.weight": (4, 1, 1, 1), "3.bias": (1,)}
    shapes |= dict.fromkeys(("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), (4,))
    heads = {}
    for name, shape in shapes.items():
        each = [segmenter_tensor(f"head.{space}.m.{name}", shape) for space in spaces]
        if len(shape) == 4:
            each = [weight.flip(2, 3).transpose(0, 1) for weight in each]
        heads[name] = torch.cat([weight.abs() + 0.2 for weight in each] if name == "3.bias" else each)
    return heads


def rosinality_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of the full-width rosinality network, or its input."""
    numbers = normal(key, shape)
    if key.startswith("style.") and key.endswith("weight"):
        numbers = numbers * 100
    elif key.endswith("noise.weight"):
        numbers = 0.5 + 0.1 * numbers
    elif key.startswith("noises.") or (key.startswith("to_rgb") and len(shape) == 4):
        numbers = numbers / np.sqrt(np.prod(shape[1:]))
    elif not key.endswith(("conv.weight", "modulation.weight", "input.input", "input:z")):
        numbers = numbers * 0.1 + (1 if key.endswith("modulation.bias") else 0)
    return torch.from_numpy(numbers.astype(np.float32))
