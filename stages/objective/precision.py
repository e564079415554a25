"""Inverting in half precision: what is computed in it, and how gradients survive it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]

_LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}

GRADIENT_SCALE = 1024.0
"""Factor by which gradients are enlarged on their way through networks in fp16. Those of the mean over a picture's
pixels are about 1e-6 at 256 px, where fp16 has 4 bits left; enlarged, sums over all pixels stay far below 65,504."""


def lowered(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks' convolutions and products are computed in a precision, by autocast.

    Codes, their gradients, colours, losses and the prior stay in float32 or float64.
    """
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, _LOWER[precision])


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # noqa: ANN401  # torch's context
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradient * ctx.factor, None


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return a tensor unchanged; gradients that flow back through it are multiplied."""
    scaled: Tensor = _ScaledGradient.apply(x, factor)
    return scaled
