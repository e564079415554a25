"""DeepLabV3+ on ResNet-101 at stride 16, as the method's authors trained it (Chen et al. 2018).

Attribute names are those of the published state dictionaries.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATES = (1, 6, 12, 18)
"""Dilations of the spatial pyramid."""
MULTI_GRID = (2, 4, 8)
"""Dilations of the last stage's blocks."""
WIDTH, LOW_WIDTH = 256, 48


class DeepLabV3Plus(nn.Module):
    """Features at image size, `[N, channels, H, W]`, for images `[N, 3, H, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backbone = _resnet_101()
        self.aspp = _Pyramid(2048)
        self.decoder = _Decoder(256, channels)

    def forward(self, image_N3HW: Tensor) -> Tensor:
        """Return features of the image's size."""
        trunk = self.backbone
        x = trunk.maxpool(trunk.bn1(trunk.conv1(image_N3HW)).relu())  # type: ignore[operator]
        low = trunk.layer1(x)  # type: ignore[operator]
        deep = trunk.layer4(trunk.layer3(trunk.layer2(low)))  # type: ignore[operator]
        return _resized(self.decoder(self.aspp(deep), low), image_N3HW)


def _resnet_101() -> nn.Module:
    """Return torchvision's network without its classifier, its last stage dilated instead of strided."""
    from torchvision.models import resnet101  # takes seconds to import

    trunk: nn.Module = resnet101(weights=None, replace_stride_with_dilation=[False, False, True])
    del trunk.avgpool, trunk.fc
    for block, dilation in zip(cast(nn.Sequential, trunk.layer4), MULTI_GRID, strict=True):
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)  # type: ignore[union-attr]
    return trunk


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: four dilations and the mean of the image, side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (_Atrous(inputs, rate) for rate in RATES)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * WIDTH, WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        scales = [atrous(x) for atrous in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        scales.append(_resized(self.global_avg_pool(x), x))
        return cast(Tensor, self.dropout(self.bn1(self.conv1(torch.cat(scales, dim=1))).relu()))


class _Atrous(nn.Module):
    def __init__(self, inputs: int, rate: int) -> None:
        super().__init__()
        kernel, padding = (1, 0) if rate == 1 else (3, rate)
        self.atrous_conv = nn.Conv2d(inputs, WIDTH, kernel, padding=padding, dilation=rate, bias=False)
        self.bn = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn(self.atrous_conv(x)).relu())


class _Decoder(nn.Module):
    """The pyramid's feature at a quarter of the image's size, with the first stage's next to it."""

    def __init__(self, low_inputs: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(low_inputs, LOW_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(LOW_WIDTH)
        self.last_conv = nn.Sequential(
            *(nn.Conv2d(WIDTH + LOW_WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            nn.Dropout(0.5),
            *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            nn.Dropout(0.1),
            nn.Conv2d(WIDTH, channels, 1),
        )

    def forward(self, deep: Tensor, low: Tensor) -> Tensor:
        low = self.bn1(self.conv1(low)).relu()
        return cast(Tensor, self.last_conv(torch.cat([_resized(deep, low), low], dim=1)))


def _resized(x_NChw: Tensor, like_NCHW: Tensor) -> Tensor:
    return F.interpolate(x_NChw, like_NCHW.shape[2:], mode="bilinear", align_corners=True)
