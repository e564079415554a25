"""Unexpected errors: whether a sample can cause them, and how they are reported in the same words every time."""

from __future__ import annotations

import re
import tempfile

import torch

from generators.errors import GeneratorError
from stages.base.errors import BadSampleError, StageError
from stages.base.memory import out_of_memory

LONGEST = 300
"""Number of characters of an error's own message that a reason quotes."""

_NOBODYS = (MemoryError, SystemError, StageError, GeneratorError, torch.AcceleratorError)
_DEVICE = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error|HIP error")


def may_be_a_samples(error: Exception) -> bool:
    """Return whether a sample can be the cause; it cannot be of full memory, a failed device or bad weights."""
    if isinstance(error, BadSampleError):
        return True
    if isinstance(error, _NOBODYS) or out_of_memory(error):
        return False
    return not (isinstance(error, RuntimeError) and _DEVICE.search(str(error)))


def described(error: Exception) -> str:
    """Return type and first line of an error, without what differs between runs: addresses and temporary paths."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = re.sub(r"\bat 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{6,}", "…", line)
    line = re.sub(re.escape(tempfile.gettempdir()) + r"[^\s'\"]*", "a temporary file", line)
    kind = type(error).__name__
    return f"{kind}: {line[:LONGEST]}" if line else kind


def reason_of(error: Exception) -> str:
    """Return the reason for rejecting a sample that caused this error."""
    if isinstance(error, BadSampleError):
        return str(error)
    return f"the stage failed on this sample ({described(error)}): check its files, or remove it from the shard"
