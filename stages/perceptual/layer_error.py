"""The error of one layer of LPIPS and its gradient, in half the passes over memory that autograd would take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-10
"""Added to lengths, as in the lpips package."""


def layer_error(x_NChw: Tensor, y_NChw: Tensor, weight_1C11: Tensor) -> Tensor:
    """Return Σ_c w_c (x_c / |x| − y_c)² at every position, `[N, h, w]`; differentiable once, in x and y.

    Args:
        x_NChw: features of images as the backbone gives them.
        y_NChw: features of targets, of length 1 at each position.
        weight_1C11: of the channels; takes no gradient.

    Source: Zhang et al. 2018, Eq. 1. Where all features are 0, the gradient is 0.
    """
    error: Tensor = _LayerError.apply(x_NChw, y_NChw, weight_1C11)
    return error


def normalised(x_NChw: Tensor) -> Tensor:
    """Return features divided by their length over the channels."""
    return x_NChw * _length(x_NChw)[1]  # rounded as in `layer_error`: equal images have no distance


def _length(x_NChw: Tensor) -> tuple[Tensor, Tensor]:
    length_N1hw = x_NChw.square().sum(dim=1, keepdim=True).sqrt()
    return length_N1hw, (length_N1hw + EPSILON).reciprocal()


class _LayerError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401  # torch's context
        length, shrunk = _length(x)
        difference = (x * shrunk).sub_(y)
        ctx.save_for_backward(x, difference, length, shrunk, weight)
        return F.conv2d(difference.square(), weight)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, difference, length, shrunk, weight = ctx.saved_tensors
        of_unit = (difference * (2 * gradient)[:, None]).mul_(weight)  # with respect to x / |x|
        of_x = None
        if ctx.needs_input_grad[0]:
            along = (of_unit * x).sum(dim=1, keepdim=True).mul_(shrunk.square())
            along.div_(length.clamp_min(torch.finfo(length.dtype).tiny))
            of_x = (of_unit * shrunk).addcmul_(x, along, value=-1)
        return of_x, of_unit.neg_() if ctx.needs_input_grad[1] else None, None
