"""StyleGAN2 in plain PyTorch: mapping, modulated convolution, the three architectures (Karras et al. 2020).

Parameters carry the names of NVIDIA's PyTorch checkpoints, so that those load without translation. A modulated
convolution scales its input and output instead of its weight: one convolution for the whole batch, no grouping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dictionary
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from generators.families.family import Family, FamilyOptions
from generators.families.filters import blur, laid_out_as, resample_filter, upsample
from generators.generator import Generator, State
from generators.latents import W_PLUS, feature_space
from generators.precision import in_full, lowered_to

Noise = Literal["const", "none"]
SLOPE = 0.2
GAIN = math.sqrt(2.0)
RESIDUAL_GAIN = math.sqrt(0.5)
LARGE_PX = 256
LATEST_FEATURE_PX = 128


class StyleGAN2Config(BaseModel):
    """The shape of a StyleGAN2 generator, in the terms of its init arguments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    z_dim: PositiveInt
    w_dim: PositiveInt
    c_dim: NonNegativeInt = 0
    img_resolution: PositiveInt
    img_channels: Literal[3] = 3
    mapping_layers: PositiveInt = 8
    mapping_lr_multiplier: PositiveFloat = 0.01
    channel_base: PositiveInt = 32768
    channel_max: PositiveInt = 512
    block_channels: tuple[PositiveInt, ...] | None = None
    """Channels of every block, first to last, if they do not follow from `channel_base` and `channel_max`."""
    conv_clamp: PositiveFloat | None = None
    architecture: Literal["skip", "resnet", "orig"] = "skip"
    """How features become the image: each block adds to it (skip), or the last makes it, after residual blocks
    (resnet) or plain ones (orig)."""

    @model_validator(mode="after")
    def _resolution_is_a_power_of_two(self) -> StyleGAN2Config:
        if self.img_resolution < 8 or self.img_resolution & (self.img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two of at least 8, got {self.img_resolution}")
        blocks = self.img_resolution.bit_length() - 2
        if self.block_channels is not None and len(self.block_channels) != blocks:
            raise ValueError(f"block_channels must have {blocks} numbers, got {len(self.block_channels)}")
        return self

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Side in pixels of every block, first to last."""
        return tuple(2**i for i in range(2, self.img_resolution.bit_length()))

    def channels(self, resolution: int) -> int:
        """Return the number of feature channels at a resolution."""
        if self.block_channels is not None:
            return self.block_channels[self.block_resolutions.index(resolution)]
        return min(self.channel_base // resolution, self.channel_max)


class StyleGAN2Options(FamilyOptions):
    """Options of a StyleGAN2."""

    refused: ClassVar[Dictionary[str, str]] = {
        "truncation": "a StyleGAN2 is truncated where z is mapped: use G.map(z, truncation={value})"
    }

    noise: Noise = "const"  # noise of a StyleGAN2: as stored in the checkpoint, or none


class Linear(nn.Module):
    """A fully connected layer with runtime weight scaling (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(outputs, inputs, divisor=lr_multiplier))
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, outputs]` for `[N, inputs]`."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class Mapping(nn.Module):
    """The mapping network: z, and an embedded label where the generator is conditional, to w."""

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        inputs = config.z_dim
        if config.c_dim:
            self.embed = Linear(config.c_dim, config.w_dim)
            inputs += config.w_dim
        for i in range(config.mapping_layers):
            layer = Linear(inputs if i == 0 else config.w_dim, config.w_dim, lr_multiplier=config.mapping_lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.layers = config.mapping_layers
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return w `[N, w_dim]` for `z [N, z_dim]` and `label [N, c_dim]`."""
        x = _unit_second_moment(z)
        if label is not None:
            x = torch.cat([x, _unit_second_moment(self.embed(label))], dim=1)
        for i in range(self.layers):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), SLOPE) * GAIN
        return x


class StyledConvolution(nn.Module):
    """A modulated, demodulated 3×3 convolution, upsampling or not, with noise, bias and leaky ReLU."""

    noise_const: Tensor
    squares_OI: Tensor | None  # sums of the squared weights, float64, used while the weights are fixed

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, *, up: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(_normal(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", _normal(resolution, resolution))
        self.register_buffer("resample_filter", resample_filter())
        self.register_buffer("squares_OI", None, persistent=False)
        self.up, self.clamp = up, clamp

    def freeze(self) -> None:
        """Sum the squares of the weights, which must not change from now on."""
        self.squares_OI = self._squares(self.weight.detach().double())

    def forward(self, x: Tensor, w: Tensor, noise: Noise, gain: float = 1.0) -> Tensor:
        """Return `[N, outputs, r, r]` times a gain; `x` is `[N, inputs, r, r]`, half that side when upsampling."""
        gain, clamp = GAIN * gain, None if self.clamp is None else self.clamp * gain
        style, scale = self._modulation(w)
        scale = scale * gain
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, laid_out_as(self.weight, self.weight.transpose(0, 1)), stride=2)
            x = blur(x)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        shift = self.bias[None, :, None, None] * gain
        if noise == "const":
            shift = torch.addcmul(shift, self.noise_const, self.noise_strength, value=gain)
        shift = laid_out_as(x, shift.to(x.dtype))
        x = torch.addcmul(shift, x, scale.to(x.dtype)[:, :, None, None])
        x = F.leaky_relu(x, SLOPE)  # a gain passes through it
        return x if clamp is None else x.clamp(-clamp, clamp)

    def _modulation(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return style `[N, inputs]` and demodulation `[N, outputs]`, in full precision also under autocast.

        The squares of small weights vanish in half precision. There, as published, the largest style is made 1, so that
        the convolution does not overflow; the demodulation takes the factor back.
        """
        with in_full(w.device):
            style = self.affine(w)
            kept_OI = None if self.weight.requires_grad else self.squares_OI
            squares_OI = self._squares(self.weight) if kept_OI is None else kept_OI.to(style.dtype)
            scale = torch.rsqrt(style.square() @ squares_OI.T + 1e-8)
        if lowered_to(w.device) == torch.float16:
            largest = style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
            return style / largest, scale * largest
        return style, scale

    @staticmethod
    def _squares(weight: Tensor) -> Tensor:
        return weight.square().sum(dim=(2, 3))


class Residual(nn.Module):
    """The shortcut of a residual block: a 1×1 convolution, then upsampling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(outputs, inputs, 1, 1))
        self.register_buffer("resample_filter", resample_filter())
        self.weight_gain = RESIDUAL_GAIN / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, outputs, 2r, 2r]` for `x [N, inputs, r, r]`."""
        return upsample(F.conv2d(x, self.weight * self.weight_gain))


class ToRGB(nn.Module):
    """A modulated 1×1 convolution from features to the image, whose colours are in full precision."""

    def __init__(self, inputs: int, w_dim: int, *, clamp: float | None) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(_normal(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.weight_gain = 1.0 / math.sqrt(inputs)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return the block's share of the image, `[N, 3, r, r]`."""
        with in_full(w.device):
            style = self.affine(w) * self.weight_gain
        rgb = F.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight, self.bias)
        rgb = rgb.to(torch.promote_types(rgb.dtype, torch.float32))
        return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution of the synthesis network."""

    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        channels, clamp = config.channels(resolution), config.conv_clamp
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(_normal(channels, 4, 4))
        else:
            inputs = config.channels(resolution // 2)
            self.conv0 = StyledConvolution(inputs, channels, config.w_dim, resolution, up=True, clamp=clamp)
            if config.architecture == "resnet":
                self.skip = Residual(inputs, channels)
        self.residual = config.architecture == "resnet" and not self.first
        self.makes_image = config.architecture == "skip" or resolution == config.img_resolution
        self.conv1 = StyledConvolution(channels, channels, config.w_dim, resolution, up=False, clamp=clamp)
        if self.makes_image:
            self.torgb = ToRGB(channels, config.w_dim, clamp=clamp)
        self.register_buffer("resample_filter", resample_filter())
        self.convolutions = 1 if self.first else 2

    def forward(self, state: State, w: Tensor, noise: Noise) -> State:
        """Return the feature and the image after this block; `w [N, convolutions + 1, w_dim]`."""
        x = state.feature
        if self.residual:
            around = self.skip(x)
            x = self.conv0(x, w[:, 0], noise)
            x = around + self.conv1(x, w[:, 1], noise, RESIDUAL_GAIN)
        else:
            x = x if self.first else self.conv0(x, w[:, 0], noise)
            x = self.conv1(x, w[:, self.convolutions - 1], noise)
        if not self.makes_image:
            return State(x)
        rgb = self.torgb(x, w[:, self.convolutions])
        if state.image is not None:
            with in_full(x.device):
                rgb = upsample(state.image) + rgb
        return State(x, rgb)


class Synthesis(nn.Module):
    """The blocks of the synthesis network, named by their resolution."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        for resolution in config.block_resolutions:
            self.add_module(f"b{resolution}", Block(config, resolution))

    def block(self, resolution: int) -> Block:
        """Return the block of a resolution."""
        block = self.get_submodule(f"b{resolution}")
        assert isinstance(block, Block)
        return block


class StyleGAN2(Generator):
    """A StyleGAN2 generator."""

    family = "stylegan2"
    config: StyleGAN2Config
    gaussian_slope = 1 / SLOPE

    def __init__(self, config: StyleGAN2Config, noise: Noise = "const") -> None:
        super().__init__()
        self.config, self.noise = config, noise
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        self.resolution, self.z_dim, self.w_dim = config.img_resolution, config.z_dim, config.w_dim
        self.label_dim, self.num_ws = config.c_dim, 2 * len(config.block_resolutions)

    @property
    def manner(self) -> tuple[object, ...]:
        """Its noise."""
        return (self.noise,)

    def freeze(self) -> Self:
        """Return this generator in eval mode, its weights fixed and their squares summed; see `Generator.freeze`."""
        for module in self.modules():
            if isinstance(module, StyledConvolution):
                module.freeze()
        return super().freeze()

    @property
    def tunable(self) -> Dictionary[str, nn.Parameter]:
        """The weights of the synthesis network."""
        return {f"synthesis.{name}": weight for name, weight in self.synthesis.named_parameters()}

    @property
    def block_spaces(self) -> tuple[str | None, ...]:
        """The feature space after each block; the last block's would change nothing and is not offered."""
        first = 16 if self.resolution >= LARGE_PX else 8  # the thesis starts at F4; a small generator has room for F2
        offered = range(first, min(LATEST_FEATURE_PX, self.resolution // 2) + 1)
        return tuple(feature_space(r) if r in offered else None for r in self.config.block_resolutions)

    @property
    def spaces(self) -> tuple[str, ...]:
        """`W+` and the feature spaces, earliest (most editable) first."""
        return (W_PLUS, *(space for space in self.block_spaces if space is not None))

    def feature_shape(self, space: str) -> tuple[int, int, int]:
        """Return `(C, h, w)` of a feature space."""
        if space not in self.block_spaces:
            raise ValueError(f"no feature space {space!r}: this generator has {', '.join(self.spaces[1:])}")
        resolution = self.config.block_resolutions[self.block_spaces.index(space)]
        return self.config.channels(resolution), resolution, resolution

    def map(self, z: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Return w+ `[N, num_ws, w_dim]`; truncation moves w towards the mean w, 1 leaves it.

        Raises:
            ValueError: z or the label has another shape, or the label is missing or unexpected.
        """
        self._check_inputs(z, label)
        w: Tensor = self.mapping(z, label)
        if truncation != 1.0:
            w = torch.lerp(self.mapping.w_avg, w, truncation)
        return w[:, None].expand(-1, self.num_ws, -1)

    def begin(self, w: Tensor) -> State:
        """Return the learned constant, `[N, C, 4, 4]`, and no image yet."""
        return State(self.synthesis.block(4).const.expand(w.shape[0], -1, -1, -1))

    def run_block(self, index: int, state: State, w: Tensor) -> State:
        """Return the state after block `index`; its toRGB, if any, has already seen the feature."""
        block = self.synthesis.block(self.config.block_resolutions[index])
        row = max(0, 2 * index - 1)
        out: State = block(state, w[:, row : row + block.convolutions + 1], self.noise)
        return out

    def finish(self, state: State) -> Tensor:
        """Return the accumulated image `[N, 3, R, R]`."""
        assert state.image is not None
        return state.image


def _unit_second_moment(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def _normal(*shape: int, divisor: float = 1.0) -> Tensor:
    """Return standard normal numbers over a divisor; none are drawn on the meta device, where only shapes count."""
    numbers = torch.empty(shape)
    return numbers if numbers.is_meta else numbers.normal_() / divisor


def _layers(config: StyleGAN2Config) -> tuple[int, str]:
    announced = f"{config.mapping_layers} mapping layers and {config.img_resolution} px"
    return config.mapping_layers + config.img_resolution.bit_length(), announced


def _build(config: StyleGAN2Config, options: StyleGAN2Options) -> StyleGAN2:
    return StyleGAN2(config, options.noise)


def _sample_z(generator: Generator, samples: int, random: torch.Generator, _truncation: float) -> Tensor:
    return torch.randn(samples, generator.z_dim, generator=random)


FAMILY = Family(StyleGAN2.family, "StyleGAN2", StyleGAN2Config, StyleGAN2Options, _build, _layers, _sample_z)
