"""Inverting in half precision: where it pays, what is computed in it, and how gradients survive it."""

from __future__ import annotations

import copy
import functools
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Computed = Literal["fp32", "bf16", "fp16"]
"""A precision that networks are computed in."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""A precision, or `auto`: bf16 on a device made for it, otherwise fp32."""

_LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}

Network = TypeVar("Network", bound=nn.Module)

GRADIENT_SCALE = 1024.0
"""Factor by which gradients are enlarged on their way through networks in fp16. Those of the mean over a picture's
pixels are about 1e-6 at 256 px, where fp16 has 4 bits left; enlarged, sums over all pixels stay far below 65,504."""
WORTHWHILE = 1.5
"""How much faster than in float32 a convolution of a CPU must be in bf16 for `auto` to choose bf16."""


def computed_in(precision: Precision, device: torch.device) -> Computed:
    """Return the precision in which networks are computed on a device."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"  # tensor cores with bf16
    return "bf16" if _half_pays() else "fp32"


def lowered(precision: Computed, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which networks' convolutions and products are computed in a precision, by autocast.

    Codes, their gradients, colours, losses and the prior stay in float32 or float64.
    """
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, _LOWER[precision])


def in_precision(network: Network, precision: Computed, part: str = "") -> Network:
    """Return a frozen network for use under `lowered`: itself in fp32, otherwise a copy whose convolutions are cast.

    Autocast would cast the weights in every pass. Their layout is channels-last: that of tensor cores, and twice as
    fast as the other on CPUs with AMX.

    Args:
        network: its weights must not change from now on.
        precision: of the convolutions.
        part: beginning of the names of the parameters to cast.
    """
    if precision == "fp32":
        return network
    network = copy.deepcopy(network)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 and name.startswith(part):
            parameter.data = parameter.data.to(_LOWER[precision], memory_format=torch.channels_last)
    return network


@functools.cache
def _half_pays() -> bool:
    """Return whether this CPU convolves much faster in bf16, channels-last, than in float32; it takes about 50 ms."""
    reference = _convolution_s(torch.float32, torch.contiguous_format)
    return reference / _convolution_s(torch.bfloat16, torch.channels_last) >= WORTHWHILE


def _convolution_s(dtype: torch.dtype, layout: torch.memory_format) -> float:
    """Return the seconds of a 3×3 convolution and its gradient in the input, the fastest of several.

    They are this thread's time of the processor: workers of one machine choose alike, however busy it is.
    """
    x = torch.ones(2, 64, 32, 32, dtype=dtype).to(memory_format=layout).requires_grad_()
    weight = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=layout)
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), x)
        seconds.append(time.thread_time() - started)
    return min(seconds)


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
