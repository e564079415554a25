"""The loss of codes: that of their picture, and that of the codes themselves (thesis Sec. 3.3, Eq. 3.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior
from stages.maps.region import Region, crop
from stages.objective.objective import Objective, Target, losses
from stages.objective.precision import GRADIENT_SCALE, Computed, lowered, scaled_gradient

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual


Loss = Callable[[Codes, Target], Tensor]
"""Returns the terms of each image's loss, ``[len(TERMS), N]``, differentiable in w_plus and deltas."""


def loss_of(  # noqa: PLR0917 - the parts of the objective
    generator: Generator,
    perceptual: Perceptual,
    prior: Prior | None,
    objective: Objective,
    region: Region,
    precision: Computed = "fp32",
) -> Loss:
    """Return the loss (Eq. 3.8) of the pictures that codes form, as a function of codes and targets.

    Args:
        generator: frozen; its weights never take gradients.
        perceptual: the distance that makes the targets.
        prior: on the device of the codes; None only if the objective gives it no weight.
        objective: weights and choices.
        region: of the canvas; nothing outside it is used.
        precision: of the networks' convolutions and products.
    """

    def loss(codes: Codes, target: Target) -> Tensor:
        seen = _reduced(codes) if precision == "fp16" else codes
        with lowered(precision, codes.w_plus.device):
            image_N3HW = crop(generator.synthesize(seen.w_plus, seen.deltas, seen.masks), region)
            full = torch.promote_types(image_N3HW.dtype, torch.float32)
            terms = losses(image_N3HW.to(full), codes, target, perceptual, prior, objective)
        return _enlarged(terms) if precision == "fp16" else terms

    return loss


def _enlarged(terms_TN: Tensor) -> Tensor:
    """Enlarge the gradients of the terms that pass through networks, Eq. 3.5, on their way there."""
    return torch.cat([scaled_gradient(terms_TN[:2], GRADIENT_SCALE), terms_TN[2:]])


def _reduced(codes: Codes) -> Codes:
    """Reduce the gradients that come out of networks again."""
    deltas = {space: scaled_gradient(delta, 1 / GRADIENT_SCALE) for space, delta in codes.deltas.items()}
    return Codes(scaled_gradient(codes.w_plus, 1 / GRADIENT_SCALE), deltas, codes.masks)
