"""The device of a process, and the kernels that it uses there; torch's defaults differ between operations."""

from __future__ import annotations

import torch


def process_device() -> torch.device:
    """Return the GPU of this process, or else the CPU, with the kernels of fp32 chosen."""
    choose_kernels("fp32")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_kernels(precision: str) -> None:
    """Set what cuDNN and cuBLAS may do in this process; nothing changes on a CPU.

    In fp32, products are of float32 numbers, and cuDNN takes the convolution that its rules name, without atomic
    additions: another process of the same kind of GPU gives the same numbers. In other precisions, cuDNN times its
    convolutions at the first batch of each shape and keeps the fastest, so that processes may round differently.

    Args:
        precision: of the networks: `fp32`, `bf16`, `fp16`, or `tf32`, float32 with products of 10 bits, for training.
    """
    torch.backends.cudnn.benchmark = precision != "fp32"
    torch.backends.cudnn.deterministic = precision == "fp32"
    # These settings, not the newer `fp32_precision`: torch's compiler reads both, and refuses them where they differ.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
