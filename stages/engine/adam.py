"""One step of the optimiser that all inversions share, in place on a batch (thesis Sec. 3.3).

Images do not mix: the batch's loss is the sum over images, and Adam works element by element. Each image has its own
learning rate and step count, so one may start while its neighbours finish. Nothing is read back from the
device, and no shape depends on a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.engine.batch import Batch, Moving
from stages.objective.loss import Loss

EPSILON = 1e-8


def step(loss: Loss, batch: Batch, pace_4N: Tensor) -> Tensor:
    """Move the batch one step, in place, and return the terms before it, ``[len(TERMS), N]``, detached.

    An image whose loss is not finite does not move any more.

    Args:
        loss: of codes against their targets.
        batch: the batch to move.
        pace_4N: from `pace`, for each image; type and device of the codes.
    """
    w_plus = batch.w_plus.now.detach().requires_grad_()
    deltas = {space: moving.now.detach().requires_grad_() for space, moving in batch.deltas.items()}
    with torch.enable_grad():
        terms = loss(batch.codes(w_plus, deltas), batch.target)
        of_w, *of_deltas = torch.autograd.grad(terms.sum(), [w_plus, *deltas.values()])
    terms = terms.detach()
    batch.alive.logical_and_(terms.sum(dim=0).isfinite())
    of_w = torch.where(batch.tied[:, None, None], of_w.sum(dim=1, keepdim=True), of_w)
    for moving, gradient in zip((batch.w_plus, *batch.deltas.values()), (of_w, *of_deltas), strict=True):
        adam(moving, gradient, pace_4N[:, moving.image], batch.alive[moving.image])
    return terms


# Kingma and Ba 2015, Algorithm 1
def adam(moving: Moving, gradient: Tensor, pace_4M: Tensor, alive_M: Tensor) -> None:
    """Move the rows that are free and alive, in place.

    Args:
        moving: the rows.
        gradient: of the loss with respect to the rows.
        pace_4M: from `pace`, for each row.
        alive_M: bool.
    """
    shape = (-1, *[1] * (gradient.ndim - 1))
    length, root, new_in_first, new_in_second = (one.view(shape) for one in pace_4M)
    moving.first.lerp_(gradient, new_in_first)
    moving.second.lerp_(gradient.square(), new_in_second)
    move = (moving.second.sqrt() / root).add_(EPSILON).reciprocal_().mul_(moving.first).mul_(length)
    moving.now.sub_(move.masked_fill_(~(alive_M & moving.free).view(shape), 0))


def pace(rate: float, taken: int, betas: tuple[float, float]) -> tuple[float, float, float, float]:
    """Return the inputs of an image's step other than its gradients: its length, Adam's correction, and the shares of
    the gradient in the new means of gradients and of their squares.

    Args:
        rate: the learning rate of this step.
        taken: steps before this one, since the image started.
        betas: the shares that the means keep.
    """
    of_first, of_second = betas
    length, root = rate / (1 - of_first ** (taken + 1)), (1 - of_second ** (taken + 1)) ** 0.5
    return length, root, 1 - of_first, 1 - of_second
