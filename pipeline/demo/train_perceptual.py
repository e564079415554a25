"""Make `perceptual.safetensors`: a small backbone for an LPIPS-style distance, trained to recognise scenes.

    python -m pipeline.demo.train_perceptual --out pipeline/demo/assets/perceptual.safetensors

It learns to predict a scene's parameters from a distorted picture, so that its features change with what matters
in a scene and little with noise or a shift. About two minutes on one core. It is not LPIPS-VGG, and was never fitted
to human judgement; its heads weigh all channels alike.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import kornia.augmentation as augment
import lpips
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.demo.scenes import PARAMETERS, Z_DIM, draw_scenes, scene_parameters
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.weights import save_small

CHANNELS = (12, 24, 32, 48, 64)
OTHER_SCENE = 0.7
"""Mean distance assigned to two unrelated scenes: the value of LPIPS for unrelated photographs."""


class Reader(nn.Module):
    """Predicts a scene's parameters from the features of every stage."""

    def __init__(self, backbone: SmallBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.scaling = lpips.ScalingLayer()
        self.squeeze = nn.ModuleList(nn.Conv2d(channels, 8, 1) for channels in CHANNELS)
        self.out = nn.Linear(8 * 16 * len(CHANNELS), len(PARAMETERS))

    def forward(self, image_N3HW: Tensor) -> Tensor:
        """Return logits `[N, 22]` of the unit parameters of images in [-1, 1]."""
        features = self.backbone(self.scaling(image_N3HW))
        pooled = [F.adaptive_avg_pool2d(s(f), 4).flatten(1) for s, f in zip(self.squeeze, features, strict=True)]
        logits: Tensor = self.out(torch.cat(pooled, dim=1))
        return logits


def distortions() -> nn.Module:
    """Return distorted images, which the reader must still recognise; images in [0, 1]."""
    return augment.AugmentationSequential(
        augment.RandomAffine(0.0, translate=(0.03, 0.03), padding_mode="border", p=0.5),
        augment.RandomGaussianNoise(std=0.05, p=0.5),
        augment.RandomGaussianBlur((5, 5), (0.3, 1.2), p=0.4),
        augment.RandomErasing(scale=(0.02, 0.1), ratio=(0.5, 2.0), p=0.3),
    )


def train(steps: int, seed: int, batch: int = 16) -> SmallBackbone:
    """Return a backbone trained for a number of steps on fresh scenes."""
    torch.manual_seed(seed)
    reader, distort = Reader(SmallBackbone(CHANNELS)), distortions()
    optimiser = torch.optim.Adam(reader.parameters(), lr=2e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        z = torch.randn(batch, Z_DIM)
        image = distort((draw_scenes(z).image.clamp(-1, 1) + 1) / 2) * 2 - 1
        loss = F.mse_loss(reader(image).sigmoid(), scene_parameters(z))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 250 == 249:
            print(f"step {step + 1}: mean squared error of a parameter {loss.item():.4f} (chance 0.0833)", flush=True)
    return reader.backbone


def calibrated_heads(backbone: SmallBackbone, pairs: int = 128) -> list[Tensor]:
    """Return equal weights for all channels, `[1, C, 1, 1]` each; unrelated scenes get distance `OTHER_SCENE`."""
    z = torch.randn(2 * pairs, Z_DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = backbone(lpips.ScalingLayer()(draw_scenes(z).image))
        units = [lpips.normalize_tensor(feature) for feature in features]
        distance = sum((unit[:pairs] - unit[pairs:]).square().sum(dim=1).mean() for unit in units)
    return [torch.full((1, channels, 1, 1), float(OTHER_SCENE / distance)) for channels in CHANNELS]


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = train(arguments.steps, arguments.seed)
    save_small(arguments.out, backbone.half().float(), calibrated_heads(backbone))


if __name__ == "__main__":
    main()
