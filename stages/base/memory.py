"""Whether an error says that memory, the device's or the machine's, is full."""

from __future__ import annotations

import torch

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, which does not say why: memory, where the same work was done before
    "could not execute a primitive",
    "could not create a memory",
)
"""What torch says where it has no type for it."""


def out_of_memory(error: Exception) -> bool:
    """Say whether an error is that memory, the device's or the machine's, is full."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )
