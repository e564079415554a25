"""Encoders at their real size give what the published implementations gave for the same weights."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from generators.encoders.networks import EncoderNetwork, NetworkConfig, meta_network
from generators.encoders.published import TYPES
from tests.generators.encoders.small import published_name
from tests.recipe import normal, segmenter_tensor

ROWS, W_DIM = 14, 512  # of a generator of 256 px
TOLERANCE = 1e-3  # largest difference per largest value

GOLDEN = {  # those of the same tensors are neighbours, so that random weights are drawn once for both
    "e4e_Encoder4Editing_50_ir_se": "Encoder4Editing",
    "e4e_GradualStyleEncoder_50_ir_se": "GradualStyleEncoder",
    "psp_GradualStyleEncoder_50_ir_se": "GradualStyleEncoder",
    "psp_BackboneEncoderUsingLastLayerIntoW_50_ir_se": "BackboneEncoderUsingLastLayerIntoW",
    "restyle_BackboneEncoder_50_ir_se": "BackboneEncoder",
    "restyle_ProgressiveBackboneEncoder_50_ir_se": "ProgressiveBackboneEncoder",
    "restyle_ResNetBackboneEncoder": "ResNetBackboneEncoder",
    "restyle_ResNetProgressiveBackboneEncoder": "ResNetProgressiveBackboneEncoder",
}
Shapes = Mapping[str, tuple[int, ...]]


def published_shapes(shared: Path, name: str, output_px: int) -> Shapes:
    keys = json.loads((shared / "golden" / "keys" / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in keys["encoder_keys_by_output_size"][str(output_px)].items()}


def network_shapes(network: EncoderNetwork) -> Shapes:
    return {published_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def config_of(encoder_type: str, rows: int) -> NetworkConfig:
    return NetworkConfig(**TYPES[encoder_type][1], num_ws=rows, w_dim=W_DIM)


@functools.lru_cache(maxsize=1)
def recipe(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Tensor]:
    """Return weights of these names and shapes, seeded by their names as the golden's README says."""
    return {name: drawn(name, shape) for name, shape in shapes}


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith(".linear.weight"):
        return torch.from_numpy(normal(name, shape).astype(np.float32))
    return segmenter_tensor(name, shape)


@pytest.mark.parametrize("output_px", [256, 512, 1024])
@pytest.mark.parametrize("name", GOLDEN)
def test_a_network_has_exactly_the_tensors_of_the_published_one(shared: Path, name: str, output_px: int):
    rows = 2 * output_px.bit_length() - 4
    network = meta_network(config_of(GOLDEN[name], rows))
    assert network_shapes(network) == published_shapes(shared, name, output_px)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_network_gives_what_the_published_one_gave(shared: Path, name: str):
    network = meta_network(config_of(GOLDEN[name], ROWS))
    weights = recipe(tuple(published_shapes(shared, name, 256).items()))
    network.load_state_dict({key: weights[published_name(key)] for key in network.state_dict()}, assign=True)
    network.eval()
    inputs = np.load(shared / "golden" / "4_encoders" / "inputs_u8.npz")
    golden = np.load(shared / "golden" / "4_encoders" / f"{name}_256.npz")
    for key in golden.files:
        image = torch.from_numpy(inputs[key.removeprefix("out_")][:, : network.config.input_channels]) / 127.5 - 1
        with torch.no_grad():
            codes = network(image).numpy()
        reference = golden[key] if golden[key].ndim == 3 else golden[key][:, None].repeat(ROWS, axis=1)
        assert np.abs(codes - reference).max() / np.abs(reference).max() < TOLERANCE
