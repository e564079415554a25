"""The source of a perceptual distance: the part of a configuration that names its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual


class PerceptualSource(BaseModel):
    """A perceptual distance: LPIPS with one of its published backbones, or the demo's small one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal["vgg", "alex", "squeeze", "small"] = "vgg"  # network; small is the demo's
    weights: Path | None = None  # weights of the backbone, torchvision key names; None uses torchvision's cache

    def resolved(self) -> PerceptualSource:
        """Return the same with the path of its weights filled in; raise `WeightsError` if they are missing."""
        from stages.perceptual.weights import cached_weights  # lpips imports torchvision, which takes seconds

        return self if self.weights is not None else self.model_copy(update={"weights": cached_weights(self.backbone)})

    def check(self) -> None:
        """Raise `WeightsError` if the weights are missing, damaged or of another network, by loading them once."""
        self.resolved().load(torch.device("cpu"))

    def load(self, device: torch.device) -> Perceptual:
        """Return the distance, frozen, on `device`; raise `WeightsError` if the weights are missing or different."""
        from stages.perceptual.weights import load_perceptual

        return load_perceptual(self.backbone, weights=self.weights, device=device)
