"""The half-precision arithmetic of tensor cores, on devices without them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
}
_HALF = (torch.bfloat16, torch.float16)


class TensorCores(TorchDispatchMode):
    """Inside, products and convolutions of half-precision tensors multiply exactly, add up in float32 and round once.

    Those are the numbers that tensor cores compute, except for the order of the sums; a CPU without such instructions
    then takes the time of float32, where its own emulation takes ten times as much. All else runs as it would.
    """

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Compute one operator; called by torch."""
        kwargs = kwargs or {}
        half = next((x.dtype for x in args if isinstance(x, Tensor) and x.dtype in _HALF), None)
        if operator not in _PRODUCTS or half is None:
            return operator(*args, **kwargs)
        result = operator(*(_full(x) for x in args), **kwargs)
        return tuple(_rounded(x, half) for x in result) if isinstance(result, tuple) else _rounded(result, half)


def _full(x: Any) -> Any:  # noqa: ANN401  # whatever an operator takes
    return x.float() if isinstance(x, Tensor) else x


def _rounded(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return x if x is None else x.to(dtype)
