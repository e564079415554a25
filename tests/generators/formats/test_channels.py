"""Networks whose channels do not follow from a base and a maximum: read from the shapes of their tensors, and kept."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from generators import CheckpointError, load_generator
from generators.checkpoints import save_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.published import ada_arguments, network_pickle, tiny

CHANNELS = (6, 9, 5)


def made() -> StyleGAN2:
    return tiny(16, z_dim=5, block_channels=CHANNELS)


def rosinality(generator: StyleGAN2) -> bytes:
    return torch_file({"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg})


def nvidia(generator: StyleGAN2) -> bytes:
    return network_pickle(generator.state_dict(), ada_arguments(generator.config))


def tensorflow(generator: StyleGAN2) -> bytes:
    arguments = {**tensorflow_arguments(generator.config), "fmap_decay": 0.7, "fmap_min": 5}
    return tensorflow_pickle(tensorflow_variables(generator), arguments)


@pytest.mark.parametrize("write", [rosinality, nvidia, tensorflow])
def test_every_format_is_read_with_the_channels_of_its_tensors(tmp_path: Path, write):
    generator = made()
    (tmp_path / "a").write_bytes(write(generator))
    found = load_generator(tmp_path / "a")
    assert found.config.block_channels == CHANNELS
    assert found.feature_shape("F2") == (9, 8, 8)
    w = generator.map(torch.randn(2, 5))
    torch.testing.assert_close(found.synthesize(w), generator.synthesize(w), rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [rosinality, nvidia, tensorflow])
def test_channels_that_follow_from_the_formula_are_not_listed(tmp_path: Path, write):
    (tmp_path / "a").write_bytes(write(tiny(16, z_dim=5)))
    assert load_generator(tmp_path / "a").config.block_channels is None


def test_they_are_kept_in_the_projects_own_format(tmp_path: Path):
    generator = made()
    save_generator(generator, tmp_path / "a.safetensors", about="random")
    found = load_generator(tmp_path / "a.safetensors")
    assert found.config == generator.config
    w = generator.map(torch.randn(2, 5))
    assert torch.equal(found.synthesize(w), generator.synthesize(w))


def test_files_without_such_a_list_are_as_they_were(tmp_path: Path):
    save_generator(tiny(16), tmp_path / "a.safetensors", about="random")
    assert b"block_channels" not in (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize("channels", [(6, 9), (6, 9, 5, 5), (6, 0, 5)])
def test_a_list_that_does_not_fit_is_refused(channels: tuple[int, ...]):
    with pytest.raises(ValidationError, match="block_channels"):
        StyleGAN2Config(z_dim=5, w_dim=5, img_resolution=16, block_channels=channels)


def test_tensors_that_contradict_each_other_are_refused(tmp_path: Path):
    generator = made()
    state = generator.state_dict() | {"synthesis.b8.conv1.weight": torch.ones(7, 9, 3, 3)}
    (tmp_path / "a").write_bytes(network_pickle(state, ada_arguments(generator.config)))
    with pytest.raises(CheckpointError, match=r"holds synthesis\.b"):
        load_generator(tmp_path / "a")
