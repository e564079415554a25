"""IR-SE-50: a residual network of 50 layers with squeeze-and-excitation (Deng et al. 2019, ArcFace; Hu et al. 2018).

Attribute names are those of the published state dictionaries.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

UNITS = (3, 4, 14, 3)
"""Residual units per stage."""
REDUCTION = 16
"""Ratio of channels to hidden channels of the squeeze."""


class IRSE50(nn.Module):
    """Features of an image at 1/4, 1/8 and 1/16 of its size, of 2, 4 and 8 times `width` channels."""

    def __init__(self, input_channels: int, width: int = 64) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(input_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        units: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(UNITS):
            for index in range(count):
                units.append(_Unit(channels, width * 2**stage, stride=1 if index else 2))
                channels = width * 2**stage
        self.body = nn.Sequential(*units)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of the last three stages for an image `[N, input_channels, H, W]`."""
        x = self.input_layer(image)
        ends = [sum(UNITS[: stage + 1]) - 1 for stage in range(len(UNITS))]
        outputs = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in ends:
                outputs.append(x)
        return outputs[1], outputs[2], outputs[3]


class _Unit(nn.Module):
    """Batch norm, convolution, PReLU, convolution, batch norm and squeeze, added to the input or its projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            _Squeeze(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.res_layer(x) + self.shortcut_layer(x))


class _Squeeze(nn.Module):
    """Channels scaled by what their means say of one another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x.mean((2, 3), keepdim=True)).relu()
        return cast(Tensor, x * self.fc2(hidden).sigmoid())
