"""Whether an error means that the memory of device or machine is full."""

from __future__ import annotations

import torch

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN gives no reason; if the same work succeeded before, it is memory
    "could not execute a primitive",
    "could not create a memory",
)
"""Messages of torch for which it has no type."""


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the memory of device or machine is full."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )
