"""Small BigGAN-deep generators, and folders of them in the layout of pytorch-pretrained-BigGAN."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.families.biggan_deep import BigGANDeep, BigGANDeepConfig
from generators.formats.biggan_deep import CONFIG_FILE, WEIGHTS_FILE, published_shapes

LAYERS = ((True, 16, 8), (False, 8, 8), (False, 8, 4), (True, 4, 2), (True, 2, 1))
SIGMA = 3.0


def tiny_biggan(seed: int = 0, truncation: float = 1.0, **changes: Any) -> BigGANDeep:
    """Return a random generator of 32 px in which everything acts: every row of statistics, attention, every bias."""
    torch.manual_seed(seed)
    shape = {
        "output_dim": 32, "z_dim": 6, "class_embed_dim": 5, "channel_width": 4, "num_classes": 7, "layers": LAYERS,
        "attention_layer_position": 3, "n_stats": 11,
    } | changes  # fmt: skip
    generator = BigGANDeep(BigGANDeepConfig.model_validate(shape), truncation)
    tensors = generator.state_dict()
    for name, tensor in tensors.items():
        if name.endswith(("running_means", "bias", "gamma")):
            tensors[name] = tensor + 0.3 * torch.randn(tensor.shape)
        elif name.endswith("running_vars"):
            tensors[name] = 0.5 + torch.rand(tensor.shape)
        elif "bn" in name or "embeddings" in name:
            tensors[name] = 2 * tensor
    generator.load_state_dict(tensors)
    return generator.freeze()


def published_tensors(generator: BigGANDeep) -> dict[str, Tensor]:
    """Return what the published file of a generator holds: raw weights, and vectors that give them the norm `SIGMA`."""
    tensors: dict[str, Tensor] = {}
    own = {f"generator.{name}": tensor for name, tensor in generator.state_dict().items()}
    own["embeddings.weight"] = own.pop("generator.embeddings.weight")
    random = torch.Generator().manual_seed(0)
    for name, shape in published_shapes(generator).items():
        stem, _, part = name.rpartition("_")
        if part not in ("orig", "u", "v"):
            tensors[name] = _filled(own[name], shape, random)
        elif part == "orig":
            weight = _filled(own[stem], shape, random)
            u, v = (torch.randn(size, generator=random) for size in (len(weight), weight[0].numel()))
            tensors[name] = SIGMA * weight
            tensors |= {f"{stem}_u": u / (u @ weight.flatten(1) @ v), f"{stem}_v": v}
    return tensors


def write_folder(folder: Path, generator: BigGANDeep, **changes: Tensor | None) -> Path:
    """Write the published folder of a generator, with some tensors changed or left out, and return it."""
    tensors: dict[str, Tensor | None] = {**published_tensors(generator)}
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(generator.config.model_dump()))
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS_FILE)
    return folder


def _filled(tensor: Tensor, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Return a tensor with random rows added: of the last convolution, three outputs of many are used."""
    filled = torch.randn(shape, generator=random)
    filled[: len(tensor)] = tensor
    return filled
