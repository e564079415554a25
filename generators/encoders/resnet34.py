"""ReStyle's ResNet-34: torchvision's residual blocks after a stem of its own (Alaluf et al. 2021; He et al. 2016).

Attribute names are those of the published state dictionaries.
"""

from __future__ import annotations

from torch import Tensor, nn

UNITS = (3, 4, 6, 3)
"""Residual blocks per stage."""


class ResNet34(nn.Module):
    """The feature of an image at 1/16 of its size, of 8 times `width` channels; there is no pooling in the stem."""

    def __init__(self, input_channels: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.PReLU(width)
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(UNITS):
            for index in range(count):
                outputs = width * 2**stage
                blocks.append(_block(channels, outputs, stride=2 if stage and not index else 1))
                channels = outputs
        self.body = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the last feature for an image `[N, input_channels, H, W]`, alone in a tuple."""
        return (self.body(self.relu(self.bn1(self.conv1(image)))),)


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # takes seconds to import

    projection = None
    if inputs != outputs:
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    block: nn.Module = BasicBlock(inputs, outputs, stride, projection)
    return block
