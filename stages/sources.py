"""Where a stage's pretrained networks come from: the part of its configuration that names checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict

from generators import load_generator
from generators.generator import Generator
from generators.stylegan2 import Noise

if TYPE_CHECKING:
    from stages.perceptual import Perceptual


class GeneratorSource(BaseModel):
    """A pretrained generator: its checkpoint, and how it is driven."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    noise: Noise = "const"

    def load(self, device: torch.device) -> Generator:
        """Return the generator, frozen, on `device`; raises `CheckpointError` if the file is not one."""
        return load_generator(self.checkpoint, device=device, noise=self.noise)


class PerceptualSource(BaseModel):
    """A perceptual distance: LPIPS with one of its published backbones, or the demo's small one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal["vgg", "alex", "squeeze", "small"] = "vgg"
    weights: Path | None = None  # of the backbone, torchvision key names; None looks in torchvision's own cache

    def resolved(self) -> PerceptualSource:
        """Return the same with the path of its weights filled in; raises `WeightsError` if they are nowhere."""
        from stages.perceptual import cached_weights  # lpips imports torchvision: seconds that a plan need not wait

        return self if self.weights is not None else self.model_copy(update={"weights": cached_weights(self.backbone)})

    def load(self, device: torch.device) -> Perceptual:
        """Return the distance, frozen, on `device`; raises `WeightsError` if the weights are missing or others."""
        from stages.perceptual import load_perceptual

        return load_perceptual(self.backbone, weights=self.weights, device=device)


def column(space: str) -> str:
    """Return how a space is written in the names of parquet columns: `W+` is `w_plus`, `F4` is `f4`."""
    return space.lower().replace("+", "_plus")
