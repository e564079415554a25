import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import CheckpointError, load_generator
from generators.families.stylegan2 import StyleGAN2
from generators.formats.rosinality import sources
from tests.generators.converted import rosinality_state, torch_file
from tests.generators.published import tiny
from tests.generators.reference import distance
from tests.recipe import rosinality_tensor

FOLDER = "golden/1_stylegan2/rosinality_r64"


def made(resolution: int = 8, **changes) -> StyleGAN2:
    return tiny(resolution, z_dim=5, **changes)


def content(generator: StyleGAN2, changes: dict | None = None, **beside) -> dict:
    state = rosinality_state(generator) | (changes or {})
    state = {name: tensor for name, tensor in state.items() if tensor is not ...}
    return {"g_ema": state, "latent_avg": generator.mapping.w_avg} | beside


def loaded(folder: Path, data: bytes) -> StyleGAN2:
    (folder / "a.pt").write_bytes(data)
    return load_generator(folder / "a.pt")


def refused(folder: Path, held: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        loaded(folder, torch_file(held))
    return str(caught.value)


@pytest.fixture(scope="module")
def reference(shared: Path):
    with np.load(shared / FOLDER / "outputs.npz") as outputs:
        return load_generator(shared / FOLDER / "rosinality_ckpt.pt"), dict(outputs)


def test_codes_equal_the_reference(reference):
    generator, wanted = reference
    z = torch.from_numpy(wanted["z"])
    assert distance(generator.map(z)[:, 0], wanted["w"]) < 1e-5
    assert distance(generator.map(z, truncation=0.7)[:, 0], wanted["w_psi0p7"]) < 1e-5


def test_images_equal_the_reference(reference, monkeypatch: pytest.MonkeyPatch):
    generator, wanted = reference
    z, w = torch.from_numpy(wanted["z"]), torch.from_numpy(wanted["wplus"])
    assert distance(generator.synthesize(generator.map(z)), wanted["img_z_buffers"]) < 1e-5
    truncated = generator.synthesize(generator.map(z, truncation=0.7))
    assert distance(truncated, wanted["img_z_psi0p7_buffers"]) < 1e-5
    assert distance(generator.synthesize(w), wanted["img_wplus_buffers"]) < 1e-5
    monkeypatch.setattr(generator, "noise", "none")
    assert distance(generator.synthesize(w), wanted["img_wplus_zero_noise"]) < 1e-5


def test_images_with_given_noise_equal_the_reference(reference, monkeypatch: pytest.MonkeyPatch):
    generator, wanted = reference
    blocks = generator.synthesis.children()
    convolutions = [conv for block in blocks for conv in ([] if block.first else [block.conv0]) + [block.conv1]]
    for index, convolution in enumerate(convolutions):
        noise = torch.from_numpy(wanted[f"noise_given_{index}"])
        monkeypatch.setitem(convolution._buffers, "noise_const", noise)
    found = generator.synthesize(torch.from_numpy(wanted["wplus"]))
    assert distance(found, wanted["img_wplus_noise_given"]) < 1e-5


def test_every_layer_equals_the_reference(reference):
    generator, wanted = reference
    w = torch.from_numpy(wanted["wplus"])[:1]
    state = generator.begin(w)
    for index in range(len(generator.config.block_resolutions)):
        before, state = state, generator.run_block(index, state, w)
        feature = wanted[f"x_convs{2 * index - 1}" if index else "x_conv1"]
        assert distance(state.feature, feature[:1]) < 1e-5
        image = wanted[f"rgb_to_rgbs{index - 1}" if index else "rgb_to_rgb1"]
        assert distance(state.image, image[:1]) < 1e-5
        if index:
            block = generator.synthesis.block(generator.config.block_resolutions[index])
            up = block.conv0(before.feature, w[:, 2 * index - 1], "const")
            assert distance(up, wanted[f"x_convs{2 * index - 2}"]) < 1e-5


def test_the_full_width_network_equals_the_reference(shared: Path, tmp_path: Path):
    with np.load(shared / FOLDER / "fullwidth_r32_recipe_outputs.npz") as outputs:
        wanted = dict(outputs)
    shape = {"z_dim": 512, "w_dim": 512, "mapping_layers": 8, "channel_base": 512 * 32, "channel_max": 512}
    generator = tiny(32, **shape)
    state = rosinality_state(generator)
    known = {source for source, _ in sources(generator.config).values()}
    state |= {key: rosinality_tensor(key, tuple(tensor.shape)) for key, tensor in state.items() if key in known}
    found = loaded(tmp_path, torch_file({"g_ema": state, "latent_avg": torch.zeros(512)}))
    z = rosinality_tensor("input:z", (1, 512))
    assert torch.equal(z, torch.from_numpy(wanted["z"]))
    assert distance(found.map(z)[:, 0], wanted["w"]) < 1e-5
    assert distance(found.synthesize(found.map(z)), wanted["img"]) < 1e-5


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("changes", [{}, {"mapping_layers": 8}, {"channel_base": 64, "channel_max": 16}], ids=str)
def test_a_file_in_that_layout_holds_the_generator_it_was_made_of(tmp_path: Path, legacy: bool, changes: dict):
    generator = made(16, **changes)
    found = loaded(tmp_path, torch_file(content(generator), legacy=legacy))
    wanted = generator.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())
    widths = [[one.config.channels(r) for r in generator.config.block_resolutions] for one in (found, generator)]
    assert widths[0] == widths[1]


def test_what_a_training_keeps_next_to_the_weights_is_not_looked_at(tmp_path: Path):
    generator = made()
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimiser.step()
    beside = {
        "g": network.state_dict(),
        "d": network.state_dict(),
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(size=8, path="cars.lmdb", channel_multiplier=2, device=torch.device("cpu")),
        "ada_aug_p": np.float64(0.1),
    }
    found = loaded(tmp_path, torch_file(content(generator, **beside)))
    assert torch.equal(found.synthesis.b4.const, generator.synthesis.b4.const)


def test_the_mean_w_that_a_training_does_not_write_is_made_of_seeded_draws(tmp_path: Path):
    generator = made()
    held = content(generator)
    del held["latent_avg"]
    first, second = (loaded(tmp_path, torch_file(held)).mapping.w_avg for _ in range(2))
    torch.manual_seed(5)
    w = generator.map(torch.randn(200_000, 5))[:, 0]
    assert torch.equal(first, second)
    assert float((first - w.mean(dim=0)).abs().max() / w.std()) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.conv.weight": ...}, "g_ema lacks 'conv1.conv.weight'"),
        ({"style.1.weight": ...}, "g_ema lacks 'style.1.weight'"),
        ({"to_rgbs.0.conv.weight": ...}, "img_resolution must be a power of two of at least 8, got 4"),
        ({"noises.noise_1": ...}, "g_ema lacks 'noises.noise_1'"),
        ({"convs.9.conv.weight": torch.ones(1)}, "g_ema has 'convs.9.conv.weight' besides"),
        ({"style.1.weight": torch.ones(5)}, "holds style.1.weight of [5], where 2 dimensions are read"),
        ({"style.2.weight": torch.ones(5, 4)}, "holds mapping.fc1.weight of [5, 4], not the [5, 5] it announces"),
        ({"conv1.noise.weight": torch.ones(2)}, "dimensions [0] must be 1: conv1.noise.weight"),
        ({"conv1.activate.bias": torch.ones(7, dtype=torch.int64)}, "synthesis.b4.conv1.bias as torch.int64"),
        ({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "holds convs.0.conv.blur.kernel other than that of"),
        ({"to_rgbs.0.upsample.kernel": torch.ones(2, 2)}, "holds to_rgbs.0.upsample.kernel other than that of"),
        (
            {"to_rgbs.0.conv.weight": torch.ones(1, 3, 99, 1, 1)},
            "holds synthesis.b8.conv0.weight of [4, 7, 3, 3], not the [99, 7, 3, 3]",
        ),
        ({"style.1.bias": "zeros"}, "holds a str for 'style.1.bias', not a tensor"),
        ({3: torch.ones(1)}, "holds a StoredTensor for 3, not a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, changes: dict, message: str):
    assert message in refused(tmp_path, content(made(), changes))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"state_dict": {}}, "is a torch.save file without a state dictionary named g_ema: it holds 'state_dict'"),
        ({"g_ema": torch.ones(1)}, "without a state dictionary named g_ema"),
        ([1], "it holds a list"),
        ({"g_ema": {}}, "g_ema lacks 'style.1.weight'"),
    ],
)
def test_other_files_say_what_they_are(tmp_path: Path, held: object, message: str):
    assert message in refused(tmp_path, held)


def test_a_mean_w_of_another_shape_is_refused(tmp_path: Path):
    assert "holds mapping.w_avg of [4], not the [5]" in refused(tmp_path, content(made(), latent_avg=torch.ones(4)))
    assert "holds a list for 'latent_avg'" in refused(tmp_path, content(made(), latent_avg=[1.0]))


def test_tensors_that_are_all_the_same_numbers_are_refused(tmp_path: Path):
    generator = tiny(8, z_dim=400, w_dim=400, mapping_layers=8)
    one = torch.ones(400, 400)
    held = content(generator, {f"style.{i}.weight": one for i in range(1, 9)})
    assert "announces tensors of 5," in refused(tmp_path, held)
    del held["latent_avg"]
    assert "announces tensors of 5," in refused(tmp_path, held)
