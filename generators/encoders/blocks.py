"""The part that all published encoders share: a feature map becomes one row of codes (pSp's map2style)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScaledLinear(nn.Module):
    """A linear layer whose weights are scaled at run time by 1/√inputs, as StyleGAN2's (Karras et al. 2020)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, outputs]` for `[N, inputs]`."""
        return F.linear(x, self.weight * self.scale, self.bias)


class StyleBlock(nn.Module):
    """Convolutions of stride 2 down to one pixel, then a linear layer (Richardson et al. 2021, Sec. 3, map2style)."""

    def __init__(self, inputs: int, w_dim: int, side_px: int) -> None:
        super().__init__()
        widths = [inputs] + [w_dim] * int(math.log2(side_px))
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = ScaledLinear(w_dim, w_dim)

    def forward(self, feature: Tensor) -> Tensor:
        """Return one row of codes `[N, w_dim]` for a feature `[N, C, h, w]` of at most `side_px` pixels a side."""
        return cast(Tensor, self.linear(self.convs(feature).flatten(1)))


def style_rows(styles: nn.ModuleList, features: list[Tensor], *, progressive: bool) -> Tensor:
    """Return codes `[N, num_ws, w_dim]`, each row made by its own block from its own feature.

    Args:
        styles: one `StyleBlock` per row.
        features: one per row.
        progressive: rows after the first are offsets from it (e4e; Tov et al. 2021, Sec. 4.1).
    """
    rows = torch.stack([style(feature) for style, feature in zip(styles, features, strict=True)], dim=1)
    return torch.cat([rows[:, :1], rows[:, :1] + rows[:, 1:]], dim=1) if progressive else rows
