"""What of a network runs in full precision while autocast lowers the rest."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def lowered_to(device: torch.device) -> torch.dtype | None:
    """Return the precision that autocast lowers to, None where it is off (or there is none, as on the meta device)."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast lowers nothing on a device."""
    return torch.autocast(device.type, enabled=False) if lowered_to(device) else nullcontext()
