"""Names and shapes of the published networks at their real sizes, on the meta device."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.formats import rosinality, tensorflow
from generators.unpickling.records import Storage, StoredTensor

SIZES = (256, 512, 1024)


def config_f(resolution: int) -> StyleGAN2Config:
    return StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=resolution)


def shapes(resolution: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        generator = StyleGAN2(config_f(resolution))
    assert generator.num_ws == {256: 14, 512: 16, 1024: 18}[resolution]
    return {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}


def keys(shared: Path, resolution: int, which: str) -> dict:
    return json.loads((shared / f"golden/keys/stylegan2_config-f_{resolution}_{which}.json").read_text())


def stored(sizes: list[int]) -> StoredTensor:
    """Return a tensor of a shape without numbers."""
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return StoredTensor(Storage(torch.float32, 0), 0, tuple(sizes), tuple(strides[-len(sizes) :]) if sizes else ())


def named(wanted: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in wanted.items()}


@pytest.mark.parametrize("which", ["nv_sg3repo_and_tf", "stylegan2-ada"])
@pytest.mark.parametrize("resolution", SIZES)
def test_the_pytorch_networks_have_exactly_these_tensors(shared: Path, resolution: int, which: str):
    assert shapes(resolution) == named(keys(shared, resolution, which)["G"])


@pytest.mark.parametrize("resolution", SIZES)
def test_the_tensorflow_networks_map_onto_them_completely(shared: Path, resolution: int):
    scopes = keys(shared, resolution, "nv_sg3repo_and_tf")["tf_variables_G"]
    variables = {scope + name: shape for scope, listed in scopes.items() for name, shape in listed.items()}
    del variables["lod"]
    sources = tensorflow.sources(config_f(resolution))
    assert sorted(variable for variable, _ in sources.values()) == sorted(variables)
    wanted = shapes(resolution)
    assert wanted.keys() - sources.keys() == {name for name in wanted if name.endswith("resample_filter")}
    for name, (variable, change) in sources.items():
        if change is not tensorflow._plus_one:  # that one computes, of biases alone
            assert tuple(change(stored(variables[variable])).shape) == wanted[name]


@pytest.mark.parametrize("resolution", SIZES)
def test_rosinalitys_networks_map_onto_them_completely(shared: Path, resolution: int):
    held = keys(shared, resolution, "rosinality")
    wanted, tensors = shapes(resolution), {name: stored(shape) for name, shape in held["g_ema"].items()}
    config = rosinality._config(tensors)
    assert config == config_f(resolution).model_copy(update={"channel_base": config.channel_base})
    assert [config.channels(r) for r in config.block_resolutions] == [
        config_f(resolution).channels(r) for r in config.block_resolutions
    ]
    sources = rosinality.sources(config)
    assert sorted([source for source, _ in sources.values()] + rosinality.kernels(config)) == sorted(tensors)
    for name, (source, ones) in sources.items():
        assert tensors[source].without(*ones).shape == wanted[name]
    left = {name for name in wanted if name.endswith("resample_filter")} | {"mapping.w_avg"}
    assert wanted.keys() - sources.keys() == left
    assert tuple(held["latent_avg"]) == wanted["mapping.w_avg"]
