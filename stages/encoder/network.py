"""The SAM encoder: one network per space gives all codes of an image in one pass (thesis Sec. 3.3).

SAM is spatially-adaptive multilayer inversion. Every network sees the image and its invertibility map after
refinement, as one channel per space: where that space was assigned. The first network gives w_plus, each other one the
delta of its feature space. All of them see the generator's whole canvas, with zeros outside the region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from generators.errors import ArgumentError
from generators.generator import Generator
from generators.latents import Codes
from stages.base.seeded import seeded

LEAK = 0.2
BOTTOM_PX = 4  # side of the smallest feature, from which the whole canvas is seen


class EncoderNetwork(BaseModel):
    """The networks' configuration, the same for all spaces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side_px: PositiveInt = 256  # side of the canvas as encoders see it, a power of 2; never enlarged
    channels: PositiveInt = Field(default=64, multiple_of=8)  # at half of that size; doubled with each halving
    max_channels: PositiveInt = Field(default=512, multiple_of=8)  # at most
    hidden: PositiveInt = 512  # features from which w_plus is made

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.side_px.bit_count() != 1 or self.side_px < 4 * BOTTOM_PX:
            raise ValueError(f"side_px must be a power of 2 and at least {4 * BOTTOM_PX}, got {self.side_px}")
        return self

    def widths(self, side_px: int) -> list[int]:
        """Return the channels at half of an input's side, at a quarter, and so on down to `BOTTOM_PX`."""
        halvings = int(math.log2(side_px // BOTTOM_PX))
        return [min(self.channels << level, self.max_channels) for level in range(halvings)]


class SamEncoder(nn.Module):
    """Gives the codes of images: `encoder(images, maps)`. An image's codes do not depend on its neighbours.

    A new one gives the mean w and deltas of zero.
    """

    digest: str = ""
    """Digest of the checkpoint that it was loaded from."""
    source: str = ""
    """The checkpoint, as messages show it."""
    kind = "sam"

    def __init__(
        self,
        config: EncoderNetwork,
        spaces: Sequence[str],
        shapes: Mapping[str, tuple[int, int, int]],
        *,
        mean_w: Tensor,
        num_ws: int,
        resolution: int,
    ) -> None:
        """Make an encoder.

        Args:
            config: of its networks.
            spaces: the generator's first one, and those of its feature spaces that images are inverted in.
            shapes: `(C, h, w)` of the feature spaces.
            mean_w: `[w_dim]`.
            num_ws: rows of w_plus.
            resolution: side of the generator's canvas in pixels.

        Raises:
            ValueError: an input of `side_px` is too small for a feature space.
        """
        super().__init__()
        self.config, self.spaces, self.num_ws, self.resolution = config, tuple(spaces), num_ws, resolution
        self.side_px, self.w_dim = min(config.side_px, resolution), len(mean_w)
        self.shapes = {space: shapes[space] for space in spaces[1:]}
        largest = max((shape[1] for shape in self.shapes.values()), default=0)
        if 2 * largest > self.side_px:
            raise ValueError(f"network.side_px must be at least {2 * largest} for features of {largest} px")
        inputs, widths = 3 + len(spaces), config.widths(self.side_px)
        self.mean_w: Tensor
        self.register_buffer("mean_w", mean_w.detach().clone().float())
        self.w_plus = _Rows(inputs, widths, config.hidden, num_ws * self.w_dim)
        self.deltas = nn.ModuleDict(
            {
                space: _Feature(inputs, widths, self.side_px // shape[1], shape[0])
                for space, shape in self.shapes.items()
            }
        )

    def forward(self, image_N3HW: Tensor, map_NLHW: Tensor) -> Codes:
        """Return codes without masks: w_plus `[N, num_ws, w_dim]` and all deltas `[N, C, h, w]`.

        Args:
            image_N3HW: the canvas in [-1, 1], zeros outside the region; of `side_px` or larger.
            map_NLHW: where each space was assigned, in [0, 1], zeros outside the region; of the same size.

        Raises:
            ValueError: the tensors have another layout.
        """
        if image_N3HW.ndim != 4 or map_NLHW.shape != (len(image_N3HW), len(self.spaces), *image_N3HW.shape[2:]):
            raise ValueError(
                f"expected images [N, 3, H, W] and maps [N, {len(self.spaces)}, H, W] of {', '.join(self.spaces)}, "
                f"got {list(image_N3HW.shape)} and {list(map_NLHW.shape)}"
            )
        seen_NCHW = _resized(torch.cat([image_N3HW, map_NLHW], dim=1), self.side_px)
        rows_NRD = self.w_plus(seen_NCHW).unflatten(1, (self.num_ws, self.w_dim))
        return Codes(self.mean_w + rows_NRD, {space: network(seen_NCHW) for space, network in self.deltas.items()})

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise ArgumentError unless these codes are codes of a generator in these spaces, by shape."""
        ours = (self.resolution, self.num_ws, self.w_dim)
        theirs = (generator.resolution, generator.num_ws, generator.w_dim)
        if ours != theirs or any(generator.feature_shapes.get(s) != shape for s, shape in self.shapes.items()):
            raise ArgumentError(
                f"{self} was trained for a generator of {_said(*ours)}, and this one has {_said(*theirs)}: give the "
                "encoder of this generator"
            )
        if self.spaces != tuple(spaces):
            raise ArgumentError(
                f"{self} gives codes in {', '.join(self.spaces)}, but this run inverts in {', '.join(spaces)}: set "
                f"spaces to [{', '.join(self.spaces)}], or give another encoder"
            )

    def __str__(self) -> str:
        return f"encoder {self.source} (SAM)" if self.source else "SAM encoder"


def new_encoder(
    config: EncoderNetwork, generator: Generator, spaces: Sequence[str], mean_w: Tensor, seed: int
) -> SamEncoder:
    """Return an untrained encoder on the current default device, whose random weights depend on `seed` only.

    Raises:
        ValueError: see `SamEncoder`.
    """
    with seeded(seed, torch.device("cpu")):
        return SamEncoder(
            config,
            spaces,
            generator.feature_shapes,
            mean_w=mean_w,
            num_ws=generator.num_ws,
            resolution=generator.resolution,
        )


# ---- networks


class _Residual(nn.Module):
    """x plus two 3×3 convolutions of its activations, which add nothing at first.

    There is no normalisation, so that an image's codes cannot depend on its batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = _silent(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x_NChw: Tensor) -> Tensor:
        return x_NChw + cast(Tensor, self.second(_active(self.first(_active(x_NChw)))))


class _Trunk(nn.Module):
    """Features of an input at half its side, a quarter, and so on; the last has `BOTTOM_PX`."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(_Residual(width) for width in widths)

    def forward(self, seen_NCHW: Tensor) -> list[Tensor]:
        x = self.blocks[0](self.stem(F.pixel_unshuffle(seen_NCHW, 2)))
        features = [x]
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            x = block(down(x))
            features.append(x)
        return features


class _Rows(nn.Module):
    """Encoder of the first space: `[N, outputs]` from the smallest feature."""

    def __init__(self, inputs: int, widths: Sequence[int], hidden: int, outputs: int) -> None:
        super().__init__()
        self.trunk = _Trunk(inputs, widths)
        self.hidden = nn.Linear(widths[-1] * BOTTOM_PX**2, hidden)
        self.out = _silent(nn.Linear(hidden, outputs))

    def forward(self, seen_NCHW: Tensor) -> Tensor:
        bottom_NK = _active(self.trunk(seen_NCHW)[-1]).flatten(1)
        return cast(Tensor, self.out(_active(self.hidden(bottom_NK))))


class _Feature(nn.Module):
    """Encoder of a feature space: `[N, outputs, h, w]`, details joined with context on the way up from the bottom."""

    def __init__(self, inputs: int, widths: Sequence[int], reduction: int, outputs: int) -> None:
        """Make an encoder whose result has the input's side divided by `reduction`, a power of 2 and at least 2."""
        super().__init__()
        self.trunk = _Trunk(inputs, widths)
        self.level = int(math.log2(reduction)) - 1
        upwards = list(pairwise(reversed(widths[self.level :])))
        self.up = nn.ModuleList(nn.Conv2d(low, 4 * high, 1) for low, high in upwards)
        self.blocks = nn.ModuleList(_Residual(high) for _, high in upwards)
        self.out = _silent(nn.Conv2d(widths[self.level], outputs, 3, padding=1))

    def forward(self, seen_NCHW: Tensor) -> Tensor:
        *features, x = self.trunk(seen_NCHW)
        for up, block, detail in zip(self.up, self.blocks, reversed(features[self.level :]), strict=True):
            x = block(F.pixel_shuffle(up(x), 2) + detail)
        return cast(Tensor, self.out(_active(x)))


def _active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)


def _silent(layer: nn.Module) -> nn.Module:
    """Return a layer whose output is zero until it is trained."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _resized(x_NCHW: Tensor, side_px: int) -> Tensor:
    """Return a canvas averaged to a side that divides its own."""
    factor = x_NCHW.shape[-1] // side_px
    return x_NCHW if factor == 1 else F.avg_pool2d(x_NCHW, factor)


def _said(resolution: int, num_ws: int, w_dim: int) -> str:
    return f"{resolution} px, num_ws {num_ws} and w_dim {w_dim}"
