"""The published encoders' networks: a trunk, and one of three heads that make rows of codes from its features.

Row i of a pyramid reads the trunk's coarse feature (rows 0 to 2), or sums with finer ones (rows 3 to 6, and 7 on). All
rows of ReStyle's encoders read the last feature. A one-code encoder makes one w that all rows repeat.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from generators.encoders.blocks import ScaledLinear, StyleBlock, style_rows
from generators.encoders.ir_se import IRSE50
from generators.encoders.resnet34 import ResNet34

COARSE_ROWS, MIDDLE_ROWS = 3, 7
"""Rows below these numbers read the coarse and the middle feature of a pyramid (Richardson et al. 2021, Sec. 3)."""
COARSE_PX = 16
"""Side of the coarse feature of an image of 256 px."""

Trunk = Literal["ir_se_50", "resnet_34"]
Head = Literal["pyramid", "last_feature", "one_code"]


class NetworkConfig(BaseModel):
    """Everything that a network's shapes follow from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trunk: Trunk
    head: Head
    progressive: bool = False  # rows after the first are offsets from it, as in e4e
    input_channels: Literal[3, 6] = 3  # 6: an image and its present inversion, as in ReStyle
    num_ws: int = Field(ge=2, le=40)  # rows of codes that the network makes
    w_dim: int = Field(ge=1, le=8192)
    width: int = Field(default=64, ge=1, le=1024)  # channels of the trunk's first layer


class EncoderNetwork(nn.Module):
    """Trunk and head of an encoder: codes relative to where it starts, `[N, num_ws, w_dim]`, for images of any size."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        trunk = {"ir_se_50": IRSE50, "resnet_34": ResNet34}[config.trunk]
        self.trunk: nn.Module = trunk(config.input_channels, config.width)
        self.head: nn.Module = {"pyramid": _Pyramid, "last_feature": _LastFeature, "one_code": _OneCode}[config.head](
            config
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return codes `[N, num_ws, w_dim]` for images `[N, input_channels, H, W]` in [-1, 1]."""
        return cast(Tensor, self.head(self.trunk(image)))


class _Pyramid(nn.Module):
    """Features of three scales, each with the coarser ones added (Richardson et al. 2021; Tov et al. 2021)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, self.progressive = 8 * config.width, config.progressive
        sides = [
            COARSE_PX * (1 if row < COARSE_ROWS else 2 if row < MIDDLE_ROWS else 4) for row in range(config.num_ws)
        ]
        self.styles = nn.ModuleList(StyleBlock(channels, config.w_dim, side) for side in sides)
        self.latlayer1 = nn.Conv2d(channels // 2, channels, 1)
        self.latlayer2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        fine, middle, coarse = features
        middle = _upsampled(coarse, self.latlayer1(middle))
        fine = _upsampled(middle, self.latlayer2(fine))
        rows = len(self.styles)
        each = [coarse if row < COARSE_ROWS else middle if row < MIDDLE_ROWS else fine for row in range(rows)]
        return style_rows(self.styles, each, progressive=self.progressive)


class _LastFeature(nn.Module):
    """One block per row on the last feature (ReStyle, Alaluf et al. 2021, Sec. 4.3)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.progressive = config.progressive
        self.styles = nn.ModuleList(StyleBlock(8 * config.width, config.w_dim, COARSE_PX) for _ in range(config.num_ws))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return style_rows(self.styles, [features[-1]] * len(self.styles), progressive=self.progressive)


class _OneCode(nn.Module):
    """One w from the mean of the last feature, the same in every row (pSp's ablation in W)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_ws = config.num_ws
        self.linear = ScaledLinear(8 * config.width, config.w_dim)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        row: Tensor = self.linear(features[-1].mean((2, 3)))
        return row[:, None].expand(-1, self.num_ws, -1)


def _upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the sum of a coarse feature, resized as in the published code, and a fine one."""
    return F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=True) + fine


def meta_network(config: NetworkConfig) -> EncoderNetwork:
    """Return a network on the meta device, where it takes no memory."""
    with torch.device("meta"):
        return EncoderNetwork(config)
