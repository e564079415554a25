"""Files of rosinality's network as forks and trainings write them: other keys, other names, parts missing."""

import re
from pathlib import Path

import pytest
import torch

from generators import CheckpointError, load_generator
from generators.families.stylegan2 import StyleGAN2
from generators.formats import rosinality
from tests.generators.converted import rosinality_state, torch_file
from tests.generators.published import tiny


def made(resolution: int = 16, **changes) -> StyleGAN2:
    return tiny(resolution, z_dim=5, **changes)


def state() -> dict[str, torch.Tensor]:
    return rosinality_state(made())


def basicsr(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dictionary in the names of BasicSR's StyleGAN2Generator, which keeps no kernels."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("kernel"):
            continue
        new = name.replace("style.", "style_mlp.", 1) if name.startswith("style.") else name
        new = new.replace("input.input", "constant_input.weight").replace("noises.noise_", "noises.noise")
        new = re.sub(r"^conv(1|s\.\d+)\.noise\.weight$", r"style_conv\1.weight", new)
        new = re.sub(r"^conv(1|s\.\d+)\.activate\.bias$", r"style_conv\1.activate.bias", new)
        new = re.sub(r"^conv(1|s\.\d+)\.conv\.", r"style_conv\1.modulated_conv.", new)
        renamed[re.sub(r"^(to_rgb.*)\.conv\.", r"\1.modulated_conv.", new)] = tensor
    return renamed


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(folder: Path, held: object, *, legacy: bool = False, noise: str = "const") -> StyleGAN2:
    (folder / "a.pt").write_bytes(torch_file(held, legacy=legacy))
    return load_generator(folder / "a.pt", noise=noise)


def refused(folder: Path, held: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        loaded(folder, held)
    return str(caught.value)


def is_whole(found: StyleGAN2) -> bool:
    wanted = made().state_dict()
    return all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items() if "w_avg" not in name)


def without_noises() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state().items() if not name.startswith("noises.")}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_noise_that_is_not_in_the_file_is_drawn_with_a_fixed_seed_and_said(tmp_path: Path, legacy: bool):
    held = {"g_ema": without_noises(), "latent_avg": torch.zeros(5)}
    first, second = loaded(tmp_path, held, legacy=legacy), loaded(tmp_path, held, legacy=legacy)
    buffers = [tensor for name, tensor in first.state_dict().items() if name.endswith("noise_const")]
    assert [tuple(tensor.shape) for tensor in buffers] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    numbers = torch.cat([tensor.flatten() for tensor in buffers])
    assert abs(float(numbers.mean())) < 0.1
    assert 0.9 < float(numbers.std()) < 1.1
    w = first.map(torch.randn(2, 5))
    assert torch.equal(first.synthesize(w), second.synthesize(w))
    assert "noises.* is not in the file" in first.remark
    silent = loaded(tmp_path, held, noise="none")
    assert torch.equal(silent.synthesize(w), loaded(tmp_path, {"g_ema": state()}, noise="none").synthesize(w))


def test_noise_that_is_there_in_part_is_missing(tmp_path: Path):
    held = {name: tensor for name, tensor in state().items() if name != "noises.noise_2"}
    assert "g_ema lacks 'noises.noise_2'" in refused(tmp_path, {"g_ema": held})


def test_a_small_file_cannot_have_much_noise_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rosinality, "MAX_DRAWN_PX", 8)
    assert "has no noises.* and 16 px" in refused(tmp_path, {"g_ema": without_noises()})


def test_a_mean_w_may_be_a_row(tmp_path: Path):
    average = torch.arange(5.0)
    found = loaded(tmp_path, {"g_ema": state(), "latent_avg": average[None]})
    assert torch.equal(found.mapping.w_avg, average)
    assert found.remark == ""


KEYS = {
    "params_ema": lambda: {"params_ema": state(), "params": prefixed("", basicsr(state()))},
    "only params": lambda: {"params": state()},
    "ema next to g": lambda: {"g": {name: 0 * tensor for name, tensor in state().items()}, "ema": state()},
    "generator": lambda: {"generator": state(), "discriminator": {"convs.0.0.weight": torch.ones(1)}},
    "nested": lambda: {"models": {"netG_ema": state(), "netG": basicsr(state())}},
    "bare": state,
    "bare with a mean w": lambda: {**state(), "latent_avg": torch.ones(5)},
    "DataParallel": lambda: {"g_ema": prefixed("module.", state())},
    "torch.compile": lambda: {"g_ema": prefixed("_orig_mod.", state())},
    "AveragedModel": lambda: {"g_ema": {**prefixed("module.", state()), "n_averaged": torch.tensor(7)}},
    "Lightning": lambda: {
        "state_dict": {**prefixed("g_ema.", state()), **prefixed("generator.", basicsr(state())), "d.x": torch.ones(2)}
    },
    "BasicSR": lambda: {"params_ema": basicsr(state())},
}


@pytest.mark.parametrize("name", KEYS)
def test_the_generator_is_found_under_other_keys_and_prefixes(tmp_path: Path, name: str):
    assert is_whole(loaded(tmp_path, KEYS[name]()))


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("params_ema", "the weights are those of 'params_ema' ('params' passed over)"),
        ("ema next to g", "the weights are those of 'ema' ('g' passed over)"),
        ("nested", "the weights are those of 'models.netG_ema' ('models.netG' passed over)"),
        ("Lightning", "the weights are those of 'state_dict.g_ema' ('state_dict.generator' passed over)"),
        ("bare", "the file is a bare state dictionary"),
    ],
)
def test_which_weights_were_taken_is_said(tmp_path: Path, name: str, remark: str):
    assert remark in loaded(tmp_path, KEYS[name]()).remark


def test_the_published_key_comes_before_all_others(tmp_path: Path):
    other = {name: 0 * tensor for name, tensor in state().items()}
    found = loaded(tmp_path, {"params_ema": other, "ema": other, "g_ema": state(), "latent_avg": torch.zeros(5)})
    assert is_whole(found)
    assert found.remark == ""


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (lambda: {"state_dict": {"encoder.x": torch.ones(1), **prefixed("decoder.", state())}}, "e4e, pSp or ReStyle"),
        (lambda: {"g_ema": {"synthesis.L0_36_512.weight": torch.ones(1)}}, "a state dictionary of StyleGAN3"),
        (lambda: {"G_ema": made().state_dict()}, "NVIDIA's StyleGAN2, without its settings"),
        (lambda: {"params_ema": prefixed("stylegan_decoder.", basicsr(state()))}, "a GFPGAN"),
        (lambda: {"generator.gen_z.bias": torch.ones(1)}, "give its folder, with config.json"),
        (lambda: {"generator": {"progression.0.conv": torch.ones(1)}}, "style-based-gan-pytorch"),
        (lambda: {"lin0.model.1.weight": torch.ones(1)}, "the heads of a perceptual distance"),
        (lambda: {"a": 1, "b": {}}, "it holds 'a', 'b'; save the generator's state dictionary under that name"),
    ],
)
def test_other_files_of_torch_save_are_named(tmp_path: Path, held, what: str):
    message = refused(tmp_path, held())
    assert what in message
    assert "g_ema" in message


def test_a_whole_network_is_named_with_what_to_save(tmp_path: Path):
    message = refused(tmp_path, torch.nn.Linear(2, 2))
    assert "wants 'torch.nn.modules.linear.Linear', which is never loaded" in message
    assert "write it with torch.save({'g_ema': network.state_dict()}, file)" in message
