"""A small generator, a small perceptual distance, and seven pictures to invert, for tests of the engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.harness.descent import separate, start_codes
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior, estimate_prior
from stages.engine.batch import Item
from stages.engine.schedule import Schedule
from stages.maps.region import Region
from stages.objective.loss import Loss, loss_of
from stages.objective.objective import Objective, Target, prepare_target
from stages.objective.precision import Computed, lowered
from stages.perceptual.backbones import SmallBackbone
from stages.perceptual.distance import Perceptual

REGION = Region(top=4, height=24, width=32)
OBJECTIVE = Objective(lambda_gaussian=1e-3)
COUNT = 7
"""Image 0 uses no feature space, 1 F2, 2 F4, 3 both, and so on."""


@dataclass(frozen=True)
class Work:
    """What an engine is given."""

    generator: Generator
    perceptual: Perceptual
    prior: Prior
    images: torch.Tensor
    start: Codes

    @classmethod
    def make(cls, dtype: torch.dtype) -> Work:
        """Return the same work at every call, in floating-point numbers of a type."""
        torch.manual_seed(1)
        config = StyleGAN2Config(z_dim=8, w_dim=8, img_resolution=32, channel_base=128, channel_max=8, mapping_layers=2)
        generator = StyleGAN2(config).to(dtype).freeze()
        heads = [torch.full((1, 4, 1, 1), 0.25)] * 2
        perceptual = Perceptual(SmallBackbone((4, 4)), heads, name="t", digest="t", min_side_px=2).to(dtype)
        prior = estimate_prior(generator, samples=100, shrinkage=0.01)
        numbers = torch.arange(COUNT)
        masks = {}
        for bit, space, side in ((1, "F2", 8), (2, "F4", 16)):
            used = (numbers & bit > 0).to(dtype)
            masks[space] = (torch.rand(COUNT, 1, side, side).to(dtype) > 0.3) * used[:, None, None, None]
        start = start_codes(generator, prior, masks, COUNT)
        start = Codes(start.w_plus.to(dtype), {s: d.to(dtype) for s, d in start.deltas.items()}, masks)
        return cls(generator, perceptual, prior, torch.rand(COUNT, 3, 24, 32).to(dtype) * 2 - 1, start)

    @property
    def target(self) -> Target:
        """All targets."""
        return self.target_in("fp32")

    @property
    def loss(self) -> Loss:
        """The loss in full precision."""
        return self.loss_in("fp32")

    def target_in(self, precision: Computed) -> Target:
        """Return all targets, their features in a precision."""
        with lowered(precision, self.images.device):
            return prepare_target(self.images, self.perceptual, OBJECTIVE)

    def loss_in(self, precision: Computed) -> Loss:
        """Return the loss in a precision."""
        return loss_of(self.generator, self.perceptual, self.prior, OBJECTIVE, REGION, precision)

    def item(self, image: int, schedule: Schedule, precision: Computed = "fp32") -> Item:
        """Return the inversion of one picture."""
        one = separate(self.start)[image]
        return Item(self.target_in(precision)[image], one, schedule, frozenset(one.deltas))
