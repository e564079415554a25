"""The three architectures against the equations written out plainly, one image and one modulated kernel at a time."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from generators import load_generator
from generators.checkpoints import save_generator
from generators.families.stylegan2 import StyleGAN2
from tests.generators.published import ada_arguments, network_pickle, tiny

ARCHITECTURES = ("skip", "resnet", "orig")


def filtered(x: torch.Tensor) -> torch.Tensor:
    """Return x, zeros put between its numbers, through the filter of gain 4: doubled in side."""
    n, channels, height, width = x.shape
    wide = x.new_zeros(n, channels, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = x
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = 4 * torch.outer(taps, taps).expand(channels, 1, 4, 4)
    return F.conv2d(F.pad(wide, (2, 1, 2, 1)), kernel, groups=channels)


def layer(convolution, x: torch.Tensor, w: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    style = w @ convolution.affine.weight.T / math.sqrt(w.shape[1]) + convolution.affine.bias
    kernel = convolution.weight * style[0][None, :, None, None]
    kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if convolution.up:  # zeros between the numbers, the filter, and then the flipped kernel
        side = x.shape[-1]
        wide = x.new_zeros(1, x.shape[1], 2 * side + 5, 2 * side + 5)
        wide[:, :, 3 : 2 * side + 3 : 2, 3 : 2 * side + 3 : 2] = x
        taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
        blurred = F.conv2d(wide, 4 * torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])
        x = F.conv2d(blurred, kernel.flip(2, 3))
    else:
        x = F.conv2d(x, kernel, padding=1)
    x = x + convolution.noise_const * convolution.noise_strength + convolution.bias[:, None, None]
    x = F.leaky_relu(x, 0.2) * math.sqrt(2) * gain
    return x if convolution.clamp is None else x.clamp(-convolution.clamp * gain, convolution.clamp * gain)


def image(generator: StyleGAN2, w: torch.Tensor) -> torch.Tensor:
    x, picture, row, config = None, None, 0, generator.config
    for r in config.block_resolutions:
        block = generator.synthesis.block(r)
        if x is None:
            x = layer(block.conv1, block.const[None], w[:, row])
        else:
            around = filtered(F.conv2d(x, block.skip.weight / math.sqrt(x.shape[1]))) if block.residual else 0
            x = layer(block.conv0, x, w[:, row])
            row += 1
            x = layer(block.conv1, x, w[:, row], math.sqrt(0.5) if block.residual else 1.0)
            x = x + around * math.sqrt(0.5)
        row += 1
        picture = None if picture is None else filtered(picture)
        if config.architecture == "skip" or r == config.img_resolution:
            style = w[:, row] @ block.torgb.affine.weight.T / math.sqrt(w.shape[2]) + block.torgb.affine.bias
            kernel = block.torgb.weight * style[0][None, :, None, None] / math.sqrt(x.shape[1])
            rgb = F.conv2d(x, kernel, block.torgb.bias)
            rgb = rgb if block.torgb.clamp is None else rgb.clamp(-block.torgb.clamp, block.torgb.clamp)
            picture = rgb if picture is None else picture + rgb
    return picture


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_images_are_those_of_the_equations(architecture: str, clamp: float | None):
    generator = tiny(16, architecture=architecture, conv_clamp=clamp).double()
    torch.manual_seed(1)
    w = torch.randn(3, generator.num_ws, 5, dtype=torch.float64)
    wanted = torch.cat([image(generator, one[None]) for one in w])
    torch.testing.assert_close(generator.synthesize(w), wanted)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_edited_and_spares_what_was_inverted(architecture: str):
    generator = tiny(16, architecture=architecture)
    torch.manual_seed(1)
    w, direction = torch.randn(2, generator.num_ws, 5), torch.randn(5)
    deltas, masks = {"F2": torch.randn(2, 7, 8, 8)}, {"F2": torch.rand(2, 1, 8, 8)}
    whole = generator.synthesize(w, deltas, masks)
    torch.testing.assert_close(generator.edit(w, deltas, masks, torch.zeros(5)), whole, rtol=0, atol=0)
    assert not torch.allclose(generator.edit(w, deltas, masks, direction), whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_read_from_a_pickle_and_from_what_is_saved(tmp_path: Path, architecture: str):
    generator = tiny(16, architecture=architecture)
    arguments = ada_arguments(generator.config)
    arguments["synthesis_kwargs"]["architecture"] = architecture
    (tmp_path / "a.pkl").write_bytes(network_pickle(generator.state_dict(), arguments))
    save_generator(generator, tmp_path / "a.safetensors", about="random")
    for name in ("a.pkl", "a.safetensors"):
        found = load_generator(tmp_path / name)
        assert found.config == generator.config
        w = torch.randn(1, generator.num_ws, 5)
        assert torch.equal(found.synthesize(w), generator.synthesize(w))
