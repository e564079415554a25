"""The parts of a network that stay in full precision under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def lowered_to(device: torch.device) -> torch.dtype | None:
    """Return the precision of autocast, None if it is off or does not exist, as on the meta device."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast changes nothing on a device."""
    return torch.autocast(device.type, enabled=False) if lowered_to(device) else nullcontext()
