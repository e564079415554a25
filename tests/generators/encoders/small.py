"""Small encoders in files as published: random weights, few channels, and a decoder with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators.encoders.networks import EncoderNetwork, NetworkConfig
from generators.encoders.published import TYPES
from generators.families.stylegan2 import StyleGAN2
from tests.generators.converted import rosinality_state, torch_file
from tests.generators.published import tiny

W_DIM, WIDTH = 5, 4


@dataclass
class Published:
    """A network, its generator, and the content of the file that holds both."""

    network: EncoderNetwork
    generator: StyleGAN2
    content: dict[str, Any]

    @property
    def data(self) -> bytes:
        return torch_file(self.content)


def published(encoder_type: str, resolution: int = 16, rows: int = 6, w_dim: int = W_DIM, **opts: Any) -> Published:
    """Return an encoder of a published type for a generator of `resolution`, whose `num_ws` is 6 at 16 px."""
    network = random_network(TYPES[encoder_type][1], rows, w_dim)
    generator = tiny(resolution, w_dim=w_dim)
    state = {f"encoder.{published_name(name)}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in rosinality_state(generator).items()}
    latent_avg = generator.mapping.w_avg.repeat(generator.num_ws, 1)
    arguments = {"encoder_type": encoder_type, "start_from_latent_avg": True, "dataset_type": "ffhq_encode", **opts}
    return Published(network, generator, {"state_dict": state, "latent_avg": latent_avg, "opts": arguments})


def random_network(shape: Mapping[str, Any], rows: int, w_dim: int) -> EncoderNetwork:
    torch.manual_seed(3)
    network = EncoderNetwork(NetworkConfig(**shape, num_ws=rows, w_dim=w_dim, width=WIDTH))
    for name, tensor in network.state_dict().items():
        if name.endswith(("linear.weight", "linear.bias")):
            tensor.normal_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.1)
    return network.requires_grad_(False).eval()


def published_name(name: str) -> str:
    return name.removeprefix("trunk.").removeprefix("head.")


def pictures(count: int = 2, height: int = 256, width: int = 256) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1
