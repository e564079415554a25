"""The networks whose features a perceptual distance compares: three of torchvision's, and the demo's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True)
class Published:
    """A backbone of LPIPS: a torchvision network, up to the last feature that is compared."""

    network: str  # its function in torchvision.models
    file: str  # torchvision's file of ImageNet weights; the name ends in the start of its SHA-256
    taps: tuple[int, ...]  # layers of the network's `features` whose outputs are compared
    channels: tuple[int, ...]  # of those outputs
    min_side_px: int  # smallest image side: below it a pooling layer has nothing to pool

    @property
    def sha256_start(self) -> str:
        """The first digits of the SHA-256 of the published file."""
        return Path(self.file).stem.rpartition("-")[2]


# Zhang et al. 2018, Sec. 3: after every ReLU in front of a pooling layer (VGG), every ReLU (AlexNet), every second or
# last fire module (SqueezeNet), as in their package lpips.
PUBLISHED: Mapping[str, Published] = {
    "vgg": Published("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), min_side_px=16),
    "alex": Published(
        "alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), min_side_px=31
    ),
    "squeeze": Published(
        "squeezenet1_1",
        "squeezenet1_1-b8a52dc0.pth",
        (1, 4, 7, 9, 10, 11, 12),
        (64, 128, 256, 384, 384, 512, 512),
        min_side_px=17,
    ),
}


class PublishedBackbone(nn.Module):
    """The convolutional layers of a torchvision network, up to the last tap; parameters keep torchvision's names."""

    def __init__(self, published: Published) -> None:
        super().__init__()
        from torchvision import models  # takes seconds to import

        network = getattr(models, published.network)(weights=None)
        self.features = network.features[: published.taps[-1] + 1]
        self.taps = frozenset(published.taps)

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Return the feature after each tap, `[N, C_i, h_i, w_i]`, of images scaled by `Scaling`."""
        features, x = [], x_N3HW
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                features.append(x)
        return features


class SmallBackbone(nn.Module):
    """Stages of conv3x3-ReLU-conv3x3-ReLU, halved by average pooling in between; the demo's own backbone."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        inputs = (3, *channels[:-1])
        self.stages = nn.ModuleList(_small_stage(*pair) for pair in zip(inputs, channels, strict=True))

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Return the feature after each stage: `[N, C_i, H / 2^i, W / 2^i]`, of images already scaled.

        `Scaling` scales images in [-1, 1]; `Perceptual` does it, a training script has to.
        """
        features = []
        x = x_N3HW
        for depth, stage in enumerate(self.stages):
            x = stage(x if depth == 0 else nn.functional.avg_pool2d(x, 2))
            features.append(x)
        return features


def _small_stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )
