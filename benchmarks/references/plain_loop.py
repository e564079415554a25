"""The authors' loop: one image at a time, its target computed again in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from generators.latents import Codes, zero_deltas
from stages.engine.adam import EPSILON
from stages.inversion.inverter import Inverter
from stages.maps.region import crop
from stages.objective.objective import losses, prepare_target


def invert_plainly(
    inverter: Inverter, image_13HW: Tensor, masks: Mapping[str, Tensor], *, keeps_target: bool = False
) -> tuple[Codes, float]:
    """Return the codes of one image, and the loss before the last step; torch's own Adam, float32.

    Args:
        inverter: gives networks, objective, region and schedule.
        image_13HW: `[1, 3, H, W]` in [-1, 1], of the region.
        masks: `[1, 1, h, w]` by feature space; these spaces get deltas.
        keeps_target: compute the target's features once, which the authors' code does not.
    """
    generator, region, objective = inverter.generator, inverter.region, inverter.objective
    w_plus = inverter.prior.mean_w.float().expand(1, generator.num_ws, generator.w_dim).clone().requires_grad_()
    deltas = zero_deltas(masks, generator.feature_shapes, image_13HW.device)
    moving = [w_plus, *(delta.requires_grad_() for delta in deltas.values())]
    adam = torch.optim.Adam(moving, betas=inverter.schedule.betas, eps=EPSILON)
    target = prepare_target(image_13HW, inverter.perceptual, objective)
    for step in range(inverter.schedule.steps):
        adam.param_groups[0]["lr"] = inverter.schedule.rate(step)
        if step and not keeps_target:
            target = prepare_target(image_13HW, inverter.perceptual, objective)
        image = crop(generator.synthesize(w_plus, deltas, masks), region)
        codes = Codes(w_plus, deltas, masks)
        loss = losses(image, codes, target, inverter.perceptual, inverter.prior, objective).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Codes(w_plus.detach(), {space: delta.detach() for space, delta in deltas.items()}, masks), loss.item()
