"""Invert a batch of images from given codes, all at once, each independently (thesis Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes, zero_deltas
from generators.prior import Prior
from stages.engine.batch import Item
from stages.engine.result import Inversion, Trace
from stages.engine.schedule import Schedule
from stages.engine.slots import Slots
from stages.maps.region import Region
from stages.objective.loss import Loss, loss_of
from stages.objective.objective import Objective, Target
from stages.objective.precision import Computed

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual


def descend(  # noqa: PLR0917 - everything an inversion depends on
    generator: Generator,
    perceptual: Perceptual,
    prior: Prior | None,
    target: Target,
    start: Codes,
    objective: Objective,
    schedule: Schedule,
    region: Region,
    *,
    free: Collection[str] | None = None,
    tied: bool = False,
    precision: Computed = "fp32",
) -> Inversion:
    """Return the codes that minimise each image's loss (Eq. 3.8), by Adam from `start`, all images in one batch.

    An image takes the same path alone and in a batch, up to the rounding of batched kernels (`Slots`).

    Args:
        generator: frozen; its weights never take gradients.
        perceptual: the distance that made the target.
        prior: on the device of the codes; None only if the objective gives it no weight.
        target: from `prepare_target`, for N images of the region.
        start: codes of N images, with the masks of their deltas; unchanged.
        objective: what is minimised.
        schedule: the steps.
        region: of the canvas; nothing outside it is used.
        free: the spaces to optimise, the first (``W+``, ``Z+``) for w_plus; all that `start` holds unless given.
        tied: keep one code for all layers, W instead of W+; `start` must have one.
        precision: of the networks' convolutions and products; that in which the target was prepared.

    Raises:
        ValueError: shapes do not fit together, or a free space is not in `start`.
    """
    first = generator.spaces[0]
    everything = (first, *start.deltas)
    free = everything if free is None else free
    if not free or set(free) - set(everything):
        raise ValueError(
            f"the spaces to optimise must be some of {', '.join(everything)}, got {', '.join(free) or 'none'}: "
            "the codes hold a feature space if an image has a mask for it"
        )
    loss = loss_of(generator, perceptual, prior, objective, region, precision)
    items = [
        Item(target[image], one, schedule, frozenset(free), w_free=first in free, tied=tied)
        for image, one in enumerate(separate(start))
    ]
    return _join(start, invert_all(loss, items, len(items)))


def invert_all(loss: Loss, items: Sequence[Item], width: int) -> list[Inversion]:
    """Return the inversions of items, in their order, at most `width` at a time."""
    slots, waiting = Slots(loss, width), iter(enumerate(items))
    tenants: dict[int, int] = {}
    inversions: dict[int, Inversion] = {}
    while len(inversions) < len(items):
        entering = list(islice(waiting, len(slots.idle)))
        entered = slots.enter([item for _, item in entering])
        tenants |= dict(zip(entered, (number for number, _ in entering), strict=True))
        inversions |= {tenants.pop(slot): inversion for slot, inversion in slots.step().items()}
    return [inversions[number] for number in range(len(items))]


def start_codes(generator: Generator, prior: Prior, masks: Mapping[str, Tensor], count: int) -> Codes:
    """Return the codes that every inversion without an encoder starts from: mean w, zero deltas.

    Args:
        generator: gives the shapes.
        prior: gives mean w; on the device that the codes are wanted on.
        masks: ``[N, 1, h, w]`` by feature space; these spaces get deltas.
        count: number of images, N.

    Raises:
        ValueError: masks are not of N images.
    """
    for space, mask in masks.items():
        if len(mask) != count:
            raise ValueError(f"expected masks of {count} images, got {len(mask)} in {space}")
    w_plus = prior.mean_w.float().expand(count, generator.num_ws, generator.w_dim).clone()
    on_device = {space: mask.to(w_plus.device) for space, mask in masks.items()}
    return Codes(w_plus, zero_deltas(on_device, generator.feature_shapes, w_plus.device), on_device)


def separate(codes: Codes) -> list[Codes]:
    """Return the codes of each image, batches of 1, with the deltas that its masks activate."""
    acts = {space: mask.flatten(1).any(dim=1).tolist() for space, mask in codes.masks.items()}
    return [
        Codes(
            codes.w_plus[i : i + 1],
            {s: delta[i : i + 1] for s, delta in codes.deltas.items() if s not in acts or acts[s][i]},
            {s: mask[i : i + 1] for s, mask in codes.masks.items() if acts[s][i]},
        )
        for i in range(len(codes.w_plus))
    ]


def _join(start: Codes, found: list[Inversion]) -> Inversion:
    """Return inversions of one image each as one; inactive deltas stay as at the start."""
    deltas = {
        space: torch.cat([one.codes.deltas.get(space, delta[i : i + 1]) for i, one in enumerate(found)])
        for space, delta in start.deltas.items()
    }
    trace = found[0].trace
    terms = {name: torch.cat([one.trace.terms[name] for one in found], dim=1) for name in trace.terms}
    codes = Codes(torch.cat([one.codes.w_plus for one in found]), deltas, start.masks)
    return Inversion(codes, Trace(trace.steps, terms), torch.cat([one.diverged for one in found]))
