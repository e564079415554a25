from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from generators import load_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from tests.generators.published import tiny
from tests.generators.reference import distance

PUBLISHED = ("sg2ada_r64", "sg2ada_r64_cond10", "sg3repo_stylegan2_r64")


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, shared: Path):
    folder = shared / "golden/1_stylegan2" / request.param
    with np.load(folder / "outputs.npz") as outputs:
        return load_generator(folder / "network-snapshot.pkl"), dict(outputs)


def test_codes_equal_the_reference(published):
    generator, wanted = published
    z, label = torch.from_numpy(wanted["z"]), torch.from_numpy(wanted["c"])
    label = label if generator.label_dim else None
    assert distance(generator.map(z, label), wanted["ws_psi1"]) < 1e-5
    assert distance(generator.map(z, label, truncation=0.7), wanted["ws_psi0p7"]) < 1e-5
    assert generator.num_ws == wanted["num_ws"]
    cut = torch.cat([generator.map(z, label, truncation=0.7)[:, :4], generator.map(z, label)[:, 4:]], dim=1)
    assert distance(cut, wanted["ws_psi0p7_cutoff4"]) < 1e-5


def test_images_equal_the_reference(published):
    generator, wanted = published
    w = torch.from_numpy(wanted["ws_psi1"])
    assert distance(generator.synthesize(w), wanted["img_const"]) < 1e-5
    assert distance(generator.synthesize(torch.from_numpy(wanted["wsplus"])), wanted["img_wsplus_const"]) < 1e-5
    unfused = generator.synthesize(torch.from_numpy(wanted["wsplus"]))
    assert distance(unfused, wanted["img_wsplus_const_unfused"]) < 1e-5
    truncated = torch.from_numpy(wanted["ws_psi0p7"])
    assert distance(generator.synthesize(truncated), wanted["img_full_psi0p7_const"]) < 1e-5


def test_images_without_noise_equal_the_reference(published, monkeypatch: pytest.MonkeyPatch):
    generator, wanted = published
    monkeypatch.setattr(generator, "noise", "none")
    assert distance(generator.synthesize(torch.from_numpy(wanted["ws_psi1"])), wanted["img_none"]) < 1e-5


def test_images_with_given_noise_equal_the_reference(published, monkeypatch: pytest.MonkeyPatch):
    generator, wanted = published
    torch.manual_seed(int(wanted["img_wsplus_random_seed"]))
    w = torch.from_numpy(wanted["wsplus"])
    for block in generator.synthesis.children():
        for convolution in (block.conv1,) if block.first else (block.conv0, block.conv1):
            side = convolution.noise_const.shape[-1]
            monkeypatch.setitem(convolution._buffers, "noise_const", torch.randn(len(w), 1, side, side))
    assert distance(generator.synthesize(w), wanted["img_wsplus_random"]) < 1e-5


def test_every_block_equals_the_reference(published):
    generator, wanted = published
    w = torch.from_numpy(wanted["wsplus"])
    state = generator.begin(w)
    for index, resolution in enumerate(generator.config.block_resolutions):
        state = generator.run_block(index, state, w)
        feature = wanted[f"x_b{resolution}"]
        assert distance(state.feature[: len(feature)], feature) < 1e-5
        if f"img_b{resolution}" in wanted:
            assert distance(state.image, wanted[f"img_b{resolution}"]) < 1e-5


def test_gradients_equal_the_reference(published):
    generator, wanted = published
    w = torch.from_numpy(wanted["wsplus"]).requires_grad_()
    (generator.synthesize(w) * torch.from_numpy(wanted["grad_proj"])).sum().backward()
    assert distance(w.grad, wanted["grad_ws"]) < 1e-4


def test_frozen_it_makes_the_same_images_and_keeps_the_same_tensors():
    generator = StyleGAN2(tiny(16).config).double()
    w = torch.randn(2, generator.num_ws, generator.w_dim, dtype=torch.float64)
    assert generator.synthesis.block(16).conv1.squares_OI is None
    names, wanted = list(generator.state_dict()), generator.synthesize(w).detach()
    generator.freeze()
    assert generator.synthesis.block(16).conv1.squares_OI is not None
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert list(generator.state_dict()) == names
    torch.testing.assert_close(generator.synthesize(w), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", ["const", "none"])
def test_gradcheck_of_codes_and_deltas(noise: str):
    generator = tiny(16, channel_base=32, channel_max=2, w_dim=3, conv_clamp=256.0).double()
    generator.noise = noise
    torch.manual_seed(1)
    w = torch.randn(1, generator.num_ws, 3, dtype=torch.float64, requires_grad=True)
    middle = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 1, 8, 8, dtype=torch.float64)

    def image(w: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
        whole = generator.synthesize(w, {"F2": F.pad(middle, (3, 3, 3, 3))}, {"F2": mask})
        return whole[:, :, 2::5, 2::5]

    assert torch.autograd.gradcheck(image, (w, middle))


@pytest.mark.parametrize(
    ("resolution", "spaces"),
    [
        (8, ("W+",)),
        (16, ("W+", "F2")),
        (64, ("W+", "F2", "F4", "F6")),
        (128, ("W+", "F2", "F4", "F6", "F8")),
        (256, ("W+", "F4", "F6", "F8", "F10")),
        (1024, ("W+", "F4", "F6", "F8", "F10")),
    ],
)
def test_spaces_are_those_that_change_an_image_of_this_size(resolution: int, spaces: tuple[str, ...]):
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=resolution))
    assert generator.spaces == spaces
    assert generator.num_ws == 2 * (resolution.bit_length() - 2)
    shapes = {"F2": (512, 8, 8), "F4": (512, 16, 16), "F6": (512, 32, 32), "F8": (512, 64, 64), "F10": (256, 128, 128)}
    assert generator.feature_shapes == {space: shapes[space] for space in spaces[1:]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_resolution": 48}, "must be a power of two of at least 8, got 48"),
        ({"img_resolution": 4}, "must be a power of two of at least 8, got 4"),
        ({"img_channels": 1}, "Input should be 3"),
        ({"z_dim": 0}, "greater than 0"),
        ({"architecture": "dense"}, "Input should be 'skip', 'resnet' or 'orig'"),
        ({"activation": "lrelu"}, "Extra inputs are not permitted"),
    ],
)
def test_shapes_that_are_not_stylegan2_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        StyleGAN2Config.model_validate({"z_dim": 4, "w_dim": 4, "img_resolution": 8} | changes)


def test_truncation_moves_codes_towards_the_mean():
    generator = tiny()
    z = torch.randn(2, 6)
    whole, half, none = (generator.map(z, truncation=psi) for psi in (1.0, 0.5, 0.0))
    torch.testing.assert_close(none, generator.mapping.w_avg.expand(2, 4, 5))
    torch.testing.assert_close(half, (whole + none) / 2)


def test_a_label_changes_the_codes_and_must_fit():
    generator = tiny(c_dim=3)
    z, labels = torch.randn(2, 6), torch.eye(3)
    assert not torch.allclose(generator.map(z, labels[:2]), generator.map(z, labels[1:]))
    with pytest.raises(ValueError, match=r"label must be \[2, 3\], got None"):
        generator.map(z)
    with pytest.raises(ValueError, match=r"label must be \[2, 3\], got \[3, 3\]"):
        generator.map(z, labels)
    with pytest.raises(ValueError, match=r"label must be none: the generator is unconditional, got \[2, 3\]"):
        tiny().map(z, labels[:2])


def test_z_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"z must be \[N, 6\], got \[2, 7\]"):
        tiny().map(torch.randn(2, 7))


def test_a_clamp_bounds_features_and_images():
    w = 5 * torch.randn(1, 4, 5)
    generator = tiny(conv_clamp=0.1)
    state = generator.run_block(0, generator.begin(w), w)
    assert float(state.feature.abs().max()) == pytest.approx(0.1)
    assert float(state.image.abs().max()) <= 0.1001


def test_no_numbers_are_drawn_on_the_meta_device():
    config, before = tiny().config, torch.get_rng_state()
    with torch.device("meta"):
        generator = StyleGAN2(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in generator.parameters())


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_stays_close_though_weights_are_small(dtype: torch.dtype, tolerance: float, frozen: bool):
    generator = StyleGAN2(tiny(32).config).eval()
    w = torch.randn(4, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(0))
    unscaled = generator.synthesize(w)
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            if "conv" in name and name.endswith("weight") and "affine" not in name:
                weight.mul_(1e-2)  # demodulated: the image stays as it was, but squares vanish in half precision
    if frozen:
        generator.freeze()
    wanted = generator.synthesize(w)
    assert (wanted - unscaled).abs().max() < 1e-3 * wanted.abs().max()
    with torch.autocast("cpu", dtype):
        found = generator.synthesize(w)
    assert found.dtype == torch.float32, "colours are added up in full precision"
    assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_half_precision_does_not_overflow_where_styles_are_large():
    generator = tiny(32)
    w = 1e5 * generator.map(torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0)))
    with torch.autocast("cpu", torch.float16):
        features = [generator.begin(w)]
        for index in range(len(generator.config.block_resolutions)):
            features.append(generator.run_block(index, features[-1], w))
    assert all(bool(state.feature.isfinite().all()) for state in features)
