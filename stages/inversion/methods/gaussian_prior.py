"""Optimisation in W+ with the Gaussian prior alone: the first term of Eq. 3.6 (Wulff & Torralba 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.inversion.methods.method import Finder, MethodSource
from stages.inversion.methods.optimise import optimiser
from stages.inversion.viewer import Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class GaussianPrior(MethodSource):
    """Optimise w_plus for the whole image, with `objective.lambda_gaussian` as its only regularisation."""

    kind: Literal["gaussian_prior"] = "gaussian_prior"

    @property
    def title(self) -> str:
        """The name in reports."""
        return "optimisation in W+ with the Gaussian prior"

    def check_settings(self, stage: InvertingStage) -> None:
        """Raise `ValueError` if the prior has no weight."""
        if not stage.objective.lambda_gaussian:
            raise ValueError("method gaussian_prior needs objective.lambda_gaussian above 0, got 0")

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load prior and start."""
        alone = stage.objective.model_copy(update={"lambda_variation": 0.0})
        inverter = stage.model_copy(update={"objective": alone}).inverter_with(viewer)
        return optimiser(inverter, viewer.spaces[0], stage.batch)
