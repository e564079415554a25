"""BigGAN-deep in plain PyTorch: bottleneck blocks, conditional batch-norm, self-attention (Brock et al. 2019).

Modules carry the names of pytorch-pretrained-BigGAN without its prefix `generator.`. Spectral norm is not part of these
networks: it is folded into the weights when a checkpoint is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from generators.errors import ArgumentError
from generators.families.family import Family, FamilyOptions
from generators.generator import Generator, State
from generators.latents import Z_PLUS
from generators.precision import in_full

FIRST_PX = 4
FIRST_WIDTH = 16
FEATURE_SPACE = "F2"
FEATURE_LAYER = 2
REDUCTION = 4  # of channels, inside a block
CUT_OFF = 2.0  # limit of the normal numbers for the published samples
QUERY_REDUCTION, VALUE_REDUCTION = 8, 2  # of channels, inside attention


class BigGANDeepConfig(BaseModel):
    """The shape of a BigGAN-deep generator: the content of pytorch-pretrained-BigGAN's config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output_dim: PositiveInt
    z_dim: PositiveInt = 128
    class_embed_dim: PositiveInt = 128
    channel_width: PositiveInt = 128
    num_classes: PositiveInt = 1000
    layers: tuple[tuple[bool, PositiveInt, PositiveInt], ...]
    """For each block: whether it doubles the side, and its channels before and after in units of `channel_width`."""
    attention_layer_position: NonNegativeInt = 8
    """The block before which attention is applied; no block has that index in a generator without attention."""
    eps: PositiveFloat = 1e-4
    n_stats: int = Field(default=51, ge=2)
    """Rows of batch-norm statistics, for truncations evenly from 0 to 1."""

    @model_validator(mode="after")
    def _blocks_fit_together(self) -> BigGANDeepConfig:
        if len(self.layers) <= FEATURE_LAYER:
            raise ValueError(f"layers must be at least {FEATURE_LAYER + 1}, got {len(self.layers)}")
        width = FIRST_WIDTH
        for index, (_, before, after) in enumerate(self.layers):
            if before != width or after not in (before, before // 2):
                raise ValueError(f"layer {index} must keep or halve {width} channels, got {before} to {after}")
            width = after
        if width != 1:
            raise ValueError(f"the last layer must end in 1 channel, got {width}")
        narrowest = min(before for _, before, _ in self.layers) * self.channel_width
        if narrowest < QUERY_REDUCTION:
            raise ValueError(f"channel_width {self.channel_width} leaves only {narrowest} channels")
        side = FIRST_PX * 2 ** sum(up for up, _, _ in self.layers)
        if self.output_dim != side:
            raise ValueError(f"output_dim is {self.output_dim}, but the layers make {side} px")
        return self

    @property
    def condition_dim(self) -> int:
        """The length of a code: z, then class embedding."""
        return self.z_dim + self.class_embed_dim


class BigGANDeepOptions(FamilyOptions):
    """Options of a BigGAN-deep."""

    truncation: float = Field(default=1.0, gt=0, le=1)  # truncation of BigGAN-deep's batch-norm statistics


class BatchNorm(nn.Module):
    """Batch norm with the statistics of one truncation, chosen from rows of them; not yet scaled and shifted.

    Published for truncations 0, 1 / (rows - 1), ..., 1. `rstd` and `mean` are those chosen.
    """

    running_means: Tensor
    running_vars: Tensor
    mean: Tensor
    rstd: Tensor

    def __init__(self, channels: int, rows: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_means", torch.zeros(rows, channels))
        self.register_buffer("running_vars", torch.ones(rows, channels))
        self.register_buffer("mean", torch.empty(channels), persistent=False)
        self.register_buffer("rstd", torch.empty(channels), persistent=False)

    def choose(self, truncation: float) -> None:
        """Choose the statistics for a truncation in (0, 1].

        Between rows i and i + 1 the published implementation weighs row i by how far the truncation is beyond it, and
        row i + 1 by the rest: the wrong way round. Its images are made this way, so these are too. A truncation that
        floating-point rounding places next to its row takes the neighbouring row: 0.14 row 8, 0.58 row 28.
        """
        share, row = math.modf(truncation / (1.0 / (len(self.running_means) - 1)))
        self.mean, variance = (_between(rows, int(row), share) for rows in (self.running_means, self.running_vars))
        self.rstd = torch.rsqrt(variance + self.eps)

    def normalize(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return ReLU of the normalised feature times `weight` plus `bias`, each `[C]` or `[N, C]`."""
        scale = weight * self.rstd
        shift = bias - self.mean * scale
        return F.relu(torch.addcmul(shift[..., None, None], x, scale[..., None, None]))


class ConditionalBatchNorm(BatchNorm):
    """Batch norm, scaled and shifted by the code, and ReLU."""

    def __init__(self, channels: int, config: BigGANDeepConfig) -> None:
        super().__init__(channels, config.n_stats, config.eps)
        self.scale = nn.Linear(config.condition_dim, channels, bias=False)
        self.offset = nn.Linear(config.condition_dim, channels, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return `[N, C, h, w]` for `x` of that shape and `code [N, z_dim + class_embed_dim]`."""
        with in_full(x.device):
            scale, offset = 1 + self.scale(code), self.offset(code)
        return self.normalize(x, scale, offset)


class FinalBatchNorm(BatchNorm):
    """Batch norm with a learned scale and shift, and ReLU."""

    def __init__(self, channels: int, config: BigGANDeepConfig) -> None:
        super().__init__(channels, config.n_stats, config.eps)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, C, h, w]` for `x` of that shape."""
        return self.normalize(x, self.weight, self.bias)


class Block(nn.Module):
    """A residual bottleneck of four convolutions that keeps or doubles the side and keeps or halves the channels."""

    def __init__(self, config: BigGANDeepConfig, *, up: bool, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = inputs // REDUCTION
        self.up, self.outputs = up, outputs
        self.bn_0 = ConditionalBatchNorm(inputs, config)
        self.conv_0 = nn.Conv2d(inputs, middle, 1)
        self.bn_1 = ConditionalBatchNorm(middle, config)
        self.conv_1 = nn.Conv2d(middle, middle, 3, padding=1)
        self.bn_2 = ConditionalBatchNorm(middle, config)
        self.conv_2 = nn.Conv2d(middle, middle, 3, padding=1)
        self.bn_3 = ConditionalBatchNorm(middle, config)
        self.conv_3 = nn.Conv2d(middle, outputs, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return `[N, outputs, r, r]`; `x` is `[N, inputs, r, r]`, half that side when upsampling."""
        inner = self.bn_1(self.conv_0(self.bn_0(x, code)), code)
        x = x[:, : self.outputs]
        if self.up:
            x, inner = (F.interpolate(feature, scale_factor=2) for feature in (x, inner))
        inner = self.bn_2(self.conv_1(inner), code)
        inner = self.bn_3(self.conv_2(inner), code)
        change: Tensor = self.conv_3(inner)
        return x + change


class Attention(nn.Module):
    """Self-attention over positions, its keys and values pooled to half the side; added to the feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        query, value = channels // QUERY_REDUCTION, channels // VALUE_REDUCTION
        self.snconv1x1_theta = nn.Conv2d(channels, query, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(channels, query, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(channels, value, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(value, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, C, h, w]` for `x` of that shape."""
        query = self.snconv1x1_theta(x)
        key = F.max_pool2d(self.snconv1x1_phi(x), 2)
        value = F.max_pool2d(self.snconv1x1_g(x), 2)
        query, key, value = (feature.flatten(2).transpose(1, 2) for feature in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        seen_NChw = seen.transpose(1, 2).unflatten(2, x.shape[2:])
        change: Tensor = self.snconv1x1_o_conv(seen_NChw)
        return torch.addcmul(x, self.gamma, change)


class BigGANDeep(Generator):
    """A BigGAN-deep generator: class-conditional, without a mapping network.

    A code of `Z+` has one row for the first linear layer and one per block, each z followed by the class embedding,
    so that an edit can move either in any block. `F2` is the feature after the block of index 2 (8 × 8): layer 2 of
    the published module list, counted from 0 as the thesis counts the layers of F4 to F10.
    """

    family = "biggan_deep"
    config: BigGANDeepConfig

    def __init__(self, config: BigGANDeepConfig, truncation: float = 1.0) -> None:
        super().__init__()
        if not 0 < truncation <= 1:
            raise ArgumentError(f"the truncation of a BigGAN-deep must be above 0 and at most 1, got {truncation}")
        self.config, self.truncation = config, truncation
        self.resolution, self.z_dim, self.w_dim = config.output_dim, config.z_dim, config.condition_dim
        self.label_dim = config.num_classes
        self.num_ws = 1 + len(config.layers)
        width = config.channel_width
        self.embeddings = nn.Linear(config.num_classes, config.class_embed_dim, bias=False)
        self.gen_z = nn.Linear(config.condition_dim, FIRST_PX**2 * FIRST_WIDTH * width)
        self.layers = nn.ModuleList()
        for index, (up, before, after) in enumerate(config.layers):
            if index == config.attention_layer_position:
                self.layers.append(Attention(before * width))
            self.layers.append(Block(config, up=up, inputs=before * width, outputs=after * width))
        self.bn = FinalBatchNorm(width, config)
        self.conv_to_rgb = nn.Conv2d(width, 3, 3, padding=1)
        self._choose_statistics()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load weights like any module, then choose among their batch-norm statistics."""
        found = super().load_state_dict(state_dict, strict, assign)
        self._choose_statistics()
        return found

    @property
    def manner(self) -> tuple[object, ...]:
        """Its truncation."""
        return (self.truncation,)

    @property
    def block_spaces(self) -> tuple[str | None, ...]:
        """`F2` after the block of index 2, nothing after the others."""
        return tuple(FEATURE_SPACE if i == FEATURE_LAYER else None for i in range(len(self.config.layers)))

    @property
    def spaces(self) -> tuple[str, ...]:
        """`Z+` and `F2`."""
        return (Z_PLUS, FEATURE_SPACE)

    def feature_shape(self, space: str) -> tuple[int, int, int]:
        """Return `(C, h, w)` of a feature space."""
        if space != FEATURE_SPACE:
            raise ValueError(f"no feature space {space!r}: this generator has {FEATURE_SPACE}")
        layers = self.config.layers[: FEATURE_LAYER + 1]
        side = FIRST_PX * 2 ** sum(up for up, _, _ in layers)
        return layers[-1][2] * self.config.channel_width, side, side

    def map(self, z: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Return codes `[N, num_ws, w_dim]`: z followed by the embedded label, the same for every block.

        Args:
            z: `[N, z_dim]`; the published samples are normal, truncated at 2, times the truncation.
            label: `[N, label_dim]`, one-hot or any mixture of classes.
            truncation: 1, or the truncation that the generator was loaded with; neither changes the codes.

        Raises:
            ValueError: z or the label has another shape, the label is missing, or the truncation differs.
        """
        self._check_inputs(z, label)
        assert label is not None
        if truncation not in (1.0, self.truncation):
            raise ArgumentError(
                f"this BigGAN-deep was loaded with truncation {self.truncation}, not {truncation}: it is chosen in "
                f"load_generator(..., truncation={truncation})"
            )
        code = torch.cat([z, self.embeddings(label.to(z.dtype))], dim=1)
        return code[:, None].expand(-1, self.num_ws, -1)

    def begin(self, w: Tensor) -> State:
        """Return the first feature, `[N, C, 4, 4]` in channels-last order, from the first row of `w`."""
        return State(self.gen_z(w[:, 0]).unflatten(1, (FIRST_PX, FIRST_PX, -1)).permute(0, 3, 1, 2))

    def run_block(self, index: int, state: State, w: Tensor) -> State:
        """Return the state after block `index`, and after attention if that precedes it."""
        x, attention = state.feature, self.config.attention_layer_position
        if index == attention:
            x = self.layers[index](x)
        return State(self.layers[index + (index >= attention)](x, w[:, index + 1]))

    def finish(self, state: State) -> Tensor:
        """Return the image `[N, 3, R, R]` of the last feature, in (-1, 1)."""
        image: Tensor = self.conv_to_rgb(self.bn(state.feature))
        return torch.tanh(image.to(torch.promote_types(image.dtype, torch.float32)))

    def _choose_statistics(self) -> None:
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.choose(self.truncation)


def _between(rows_RC: Tensor, row: int, share: float) -> Tensor:
    if share == 0.0:
        return rows_RC[row].clone()
    return rows_RC[row] * share + rows_RC[row + 1] * (1 - share)


def _layers(config: BigGANDeepConfig) -> tuple[int, str]:
    return len(config.layers), f"{len(config.layers)} layers"


def _build(config: BigGANDeepConfig, options: BigGANDeepOptions) -> BigGANDeep:
    return BigGANDeep(config, options.truncation)


def _sample_z(generator: Generator, samples: int, random: torch.Generator, truncation: float) -> Tensor:
    z_Sz = torch.randn(samples, generator.z_dim, generator=random)
    return nn.init.trunc_normal_(z_Sz, a=-CUT_OFF, b=CUT_OFF, generator=random) * truncation


FAMILY = Family(BigGANDeep.family, "BigGAN-deep", BigGANDeepConfig, BigGANDeepOptions, _build, _layers, _sample_z)
