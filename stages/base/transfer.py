"""Copies between host and device that neither waits for: through pinned memory, in the order of the stream."""

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on `device`; work queued there waits for the copy, the caller need not."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to_host(x: Tensor) -> Callable[[], Tensor]:
    """Start copying a tensor to the host; return the function that waits for the copy and returns it."""
    if not x.is_cuda:
        return lambda: x
    copy = x.to("cpu", non_blocking=True)  # into pinned memory
    copied = torch.cuda.Event(blocking=True)  # waits without spinning on a core that prepares samples
    copied.record(torch.cuda.current_stream(x.device))

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait
