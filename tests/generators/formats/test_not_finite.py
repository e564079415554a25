"""Weights that are NaN or infinite are refused where a checkpoint is loaded, by the name they have in its file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from generators import CheckpointError, load_generator
from generators.checkpoints import save_generator
from generators.families.stylegan2 import StyleGAN2
from generators.formats import weights
from tests.generators.biggan_folder import published_tensors, tiny_biggan, write_folder
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.published import ada_arguments, network_pickle, tiny


def made() -> StyleGAN2:
    return tiny(8, z_dim=5)


def own(folder: Path, generator: StyleGAN2) -> Path:
    save_generator(generator, folder / "a.safetensors", about="broken")
    return folder / "a.safetensors"


def nvidia(folder: Path, generator: StyleGAN2) -> Path:
    (folder / "a.pkl").write_bytes(network_pickle(generator.state_dict(), ada_arguments(generator.config)))
    return folder / "a.pkl"


def tensorflow(folder: Path, generator: StyleGAN2) -> Path:
    data = tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config))
    (folder / "a.pkl").write_bytes(data)
    return folder / "a.pkl"


def rosinality(folder: Path, generator: StyleGAN2) -> Path:
    held = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    (folder / "a.pt").write_bytes(torch_file(held))
    return folder / "a.pt"


NAMES: dict[str, tuple[Callable[[Path, StyleGAN2], Path], str, str]] = {
    "own": (own, "synthesis.b8.conv1.weight", "mapping.w_avg"),
    "nvidia": (nvidia, "synthesis.b8.conv1.weight", "mapping.w_avg"),
    "tensorflow": (tensorflow, "synthesis/8x8/Conv1/weight", "dlatent_avg"),
    "rosinality": (rosinality, "convs.1.conv.weight", "latent_avg"),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_one_such_number_is_enough(tmp_path: Path, name: str, value: float):
    write, kernel, average = NAMES[name]
    for tensor, stored in (("synthesis.b8.conv1.weight", kernel), ("mapping.w_avg", average)):
        generator = made()
        generator.state_dict()[tensor].flatten()[1] = value
        numbers = generator.state_dict()[tensor].numel()
        with pytest.raises(CheckpointError) as caught:
            load_generator(write(tmp_path, generator))
        assert f"holds '{stored}' with 1 of {numbers:,} numbers NaN or infinite" in str(caught.value)


def test_the_first_tensor_is_named_where_all_are_broken(tmp_path: Path):
    generator = made()
    for tensor in generator.state_dict().values():
        if tensor.shape != (4, 4):  # the resampling filters
            tensor.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"holds 'input.input' with 112 of 112 numbers"):
        load_generator(rosinality(tmp_path, generator))


def test_the_mean_w_of_a_broken_mapping_is_not_what_is_named(tmp_path: Path):
    generator = made()
    generator.mapping.state_dict()["fc1.bias"][0] = float("nan")
    (tmp_path / "a.pt").write_bytes(torch_file({"g_ema": rosinality_state(generator)}))
    with pytest.raises(CheckpointError, match=r"holds 'style.2.bias' with 1 of 5"):
        load_generator(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name",
    [
        "generator.layers.0.conv_0.weight_orig",
        "generator.gen_z.weight_u",
        "generator.bn.running_vars",
        "embeddings.weight",
    ],
)
def test_a_biggan_is_checked_too(tmp_path: Path, name: str):
    generator = tiny_biggan()
    broken = published_tensors(generator)[name].clone()
    broken.view(-1)[0] = float("nan")
    write_folder(tmp_path, generator, **{name.replace(".", "__"): broken})
    with pytest.raises(CheckpointError) as caught:
        load_generator(tmp_path)
    assert f"holds '{name}' with 1 of" in str(caught.value)


def test_large_numbers_whose_sum_overflows_are_finite():
    weights.check_finite("x", torch.full((9,), 3e38))
    with pytest.raises(CheckpointError, match="2 of 9"):
        weights.check_finite("x", torch.tensor([3e38] * 7 + [float("inf"), float("-inf")]))
