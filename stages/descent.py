"""The batched optimiser that all inversions share: many images at once, each as if alone (thesis Sec. 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes, zero_deltas
from generators.prior import Prior
from stages.objective import TERMS, Objective, Target, losses
from stages.region import Region, crop

if TYPE_CHECKING:
    from stages.perceptual import Perceptual

BETAS = (0.9, 0.999)
EPSILON = 1e-8
TRACE_POINTS = 50

Tensors = dict[str, Tensor]  # what is optimised, by space; the generator's first, W+ or Z+, stands for w_plus
Evaluate = Callable[[Tensors], Tensor]  # terms [len(TERMS), N] at these tensors, differentiable


class Schedule(BaseModel):
    """How many steps are taken, and how large they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = 1001
    learning_rate: PositiveFloat = 0.05
    ramp_up: float = Field(default=0.05, ge=0, le=1)  # share of the steps over which the rate grows linearly from 0
    ramp_down: float = Field(default=0.25, ge=0, le=1)  # share of the steps over which it falls along a cosine

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, the first being 0 (Karras et al. 2020; the authors' code)."""
        done = step / self.steps
        up = min(1.0, done / self.ramp_up) if self.ramp_up else 1.0
        down = min(1.0, (1 - done) / self.ramp_down) if self.ramp_down else 1.0
        return self.learning_rate * up * (0.5 - 0.5 * math.cos(math.pi * down))


@dataclass(frozen=True, eq=False)
class Trace:
    """The weighted loss terms on the way: for each of `TERMS` and ``total``, ``[K, N]`` float64 on the CPU.

    A row holds the terms before the update of the step in ``steps [K]`` (int64).
    """

    steps: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Inversion:
    """The codes that were found, how the loss fell, and which images diverged (``[N]`` bool on the CPU).

    The codes of a diverged image are the last ones whose loss was finite.
    """

    codes: Codes
    trace: Trace
    diverged: Tensor


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
            raise ValueError(f"wanted masks of {count} images, got {len(mask)} in {space}")
    w_plus = prior.mean_w.float().expand(count, generator.num_ws, generator.w_dim).clone()
    on_device = {space: mask.to(w_plus.device) for space, mask in masks.items()}
    return Codes(w_plus, zero_deltas(on_device, generator.feature_shapes, w_plus.device), on_device)


def descend(  # noqa: PLR0917 - what an inversion depends on
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
) -> Inversion:
    """Return the codes that minimise each image's loss (Eq. 3.8), by Adam from `start`.

    The batch's loss is the sum over images, so each image's gradient and Adam state are its own: alone or in company
    it takes the same path, up to the rounding of batched kernels. That holds for a step as well (`Adam.step`), which is
    what lets a finished image make room for the next one while its neighbours go on. A delta is carried for
    those images only whose mask lets it act; the others keep theirs as it was. Once begun, nothing is read back from
    the device before the end. An image whose loss stops being finite is frozen where it last was and reported.

    Args:
        generator: frozen; its weights take no gradient in any case.
        perceptual: the distance that made the target.
        prior: on the device of the codes; None only where the objective gives it no weight.
        target: of `prepare_target`, of N images of the region.
        start: codes of N images, with the masks of their deltas; left as they are.
        objective: what is minimised.
        schedule: the steps.
        region: of the canvas; nothing outside it is looked at.
        free: the spaces to optimise, the first (``W+``, ``Z+``) for w_plus; all that `start` holds unless given.

    Raises:
        ValueError: shapes do not fit together, or a free space is not in `start`.
    """
    first = generator.spaces[0]
    chosen = _chosen(start, free, first)
    acting = _acting(start, chosen)

    def evaluate(now: Tensors) -> Tensor:
        codes = _with(start, now, first, acting)
        image_N3HW = crop(generator.synthesize(codes.w_plus, codes.deltas, codes.masks), region)
        return losses(image_N3HW, codes, target, perceptual, prior, objective)

    carried = {space: tensor[acting[space]] if space in acting else tensor for space, tensor in chosen.items()}
    adam = Adam(carried, evaluate, len(start.w_plus), acting)
    kept = _kept_steps(schedule.steps)
    rows = []
    for step in range(schedule.steps):
        terms = adam.step(schedule.rate(step))
        if step in kept:
            rows.append(terms)
    tensors, diverged = adam.finish()
    return Inversion(_with(start, tensors, first, acting), _trace(kept, torch.stack(rows)), diverged.cpu())


# Kingma and Ba 2015, Algorithm 1
class Adam:
    """Adam over a batch of images of which each can fail alone.

    Moments are kept element by element and the first axis of every tensor is the image, so images do not mix. A tensor
    that `images` names has rows for those images only.
    """

    def __init__(
        self, start: Tensors, evaluate: Evaluate, count: int | None = None, images: Mapping[str, Tensor] | None = None
    ) -> None:
        self.now = {name: tensor.detach().clone() for name, tensor in start.items()}
        self._evaluate = evaluate
        self._finite = dict(self.now)  # of each image, the last tensors whose loss was finite
        self._first = {name: torch.zeros_like(tensor) for name, tensor in self.now.items()}
        self._second = {name: torch.zeros_like(tensor) for name, tensor in self.now.items()}
        some = next(iter(self.now.values()))
        self._images = images or {}
        self._alive = torch.ones(len(some) if count is None else count, dtype=torch.bool, device=some.device)
        self._steps = 0

    def step(self, rate: float) -> Tensor:
        """Take one step and return the terms before it, ``[len(TERMS), N]``, detached."""
        terms, gradients = self._gradients()
        self._alive = self._alive & terms.sum(dim=0).isfinite()
        self._steps += 1
        grown, root = 1 - BETAS[0] ** self._steps, math.sqrt(1 - BETAS[1] ** self._steps)
        for name, gradient in gradients.items():
            now, first, second = self.now[name], self._first[name], self._second[name]
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            moved = torch.addcdiv(now, first, (second.sqrt() / root).add_(EPSILON), value=-rate / grown)
            self._finite[name] = self._where_alive(name, now)
            self.now[name] = self._where_alive(name, moved)
        return terms

    def finish(self) -> tuple[Tensors, Tensor]:
        """Return the tensors, every image's finite, and which images diverged, ``[N]`` bool."""
        for name, tensor in self.now.items():
            finite = self._alive_in(name) & tensor.flatten(1).isfinite().all(dim=1)
            images = self._images.get(name)
            self._alive = finite if images is None else self._alive.index_copy(0, images, finite)
        return {name: self._where_alive(name, now) for name, now in self.now.items()}, ~self._alive

    def _gradients(self) -> tuple[Tensor, Tensors]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.now.items()}
        with torch.enable_grad():
            terms = self._evaluate(leaves)
            gradients = torch.autograd.grad(terms.sum(), list(leaves.values()))
        return terms.detach(), dict(zip(leaves, gradients, strict=True))

    def _alive_in(self, name: str) -> Tensor:
        return self._alive[self._images[name]] if name in self._images else self._alive

    def _where_alive(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor with the rows of failed images as they last were."""
        return torch.where(self._alive_in(name).view(-1, *[1] * (tensor.ndim - 1)), tensor, self._finite[name])


def _chosen(start: Codes, free: Collection[str] | None, first: str) -> Tensors:
    """Return the tensors to optimise."""
    everything = {first: start.w_plus, **start.deltas}
    unknown = sorted(set(free or ()) - set(everything))
    if unknown or (free is not None and not free):
        raise ValueError(
            f"the spaces to optimise must be some of {', '.join(everything)}, got {', '.join(free or ()) or 'none'}: "
            "a feature space is in the codes where an image has a mask for it"
        )
    return {space: tensor for space, tensor in everything.items() if free is None or space in free}


def _acting(start: Codes, chosen: Tensors) -> Tensors:
    """Return the numbers of the images in which a delta acts, for the spaces where those are some and not all."""
    acting = {}
    for space in chosen.keys() & start.masks.keys():
        images = (start.masks[space].flatten(1) > 0).any(dim=1).nonzero().flatten()
        if 0 < len(images) < len(start.w_plus):
            acting[space] = images
    return acting


def _with(start: Codes, tensors: Tensors, first: str, acting: Tensors) -> Codes:
    """Return `start` with its optimised tensors replaced."""
    deltas = {}
    for space, delta in start.deltas.items():
        tensor = tensors.get(space, delta)
        deltas[space] = delta.index_copy(0, acting[space], tensor) if tensor.shape != delta.shape else tensor
    return Codes(tensors.get(first, start.w_plus), deltas, start.masks)


def _kept_steps(steps: int) -> tuple[int, ...]:
    """Return the steps whose terms are kept: about `TRACE_POINTS` evenly, and the last."""
    return tuple(sorted({*range(0, steps, max(1, steps // TRACE_POINTS)), steps - 1}))


def _trace(kept: tuple[int, ...], terms_KTN: Tensor) -> Trace:
    by_name = dict(zip(TERMS, terms_KTN.cpu().unbind(dim=1), strict=True))
    return Trace(torch.tensor(kept), by_name | {"total": terms_KTN.sum(dim=1).cpu()})
