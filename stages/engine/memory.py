"""The memory of the device: how many images fit into a batch."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator

from stages.base.memory import out_of_memory
from stages.engine.batch import Item
from stages.engine.slots import Slots
from stages.objective.loss import Loss

SHARE = 0.85
"""Share of the free memory that a batch may use: allocators split it into blocks that do not always fit, and the
targets of the next images and the measures of the last ones are computed at the same time."""
LARGEST = 64
"""Maximum measured width: at the end of work, idle slots cost as much as the others."""
UNMEASURED = 16
"""The width if memory cannot be measured."""


def _whole_or_auto(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("must be a whole number above 0, or auto")


Width = Annotated[int | Literal["auto"], BeforeValidator(_whole_or_auto)]
"""Number of images optimised together; `auto`: as many as fit into the memory of the device."""


def width_for(peak_1_bytes: int, peak_2_bytes: int, free_bytes: int) -> int:
    """Return how many images fit: a multiple of 8 up to `LARGEST`, below 8 a power of two, at least 1.

    Memory is assumed to grow linearly with the images. If a second image seems to cost nothing, a constant was measured
    (a kernel's workspace), and each image is assigned half of the peak of two.

    Args:
        peak_1_bytes: peak memory of a step of one image, above what was allocated before.
        peak_2_bytes: the same of two images.
        free_bytes: unallocated memory.
    """
    each = peak_2_bytes - peak_1_bytes if peak_2_bytes > peak_1_bytes else peak_2_bytes / 2
    fixed = max(0.0, peak_1_bytes - each)
    fits = max(1, min(LARGEST, int((SHARE * free_bytes - fixed) / each)))
    return fits - fits % 8 if fits >= 8 else 1 << (fits.bit_length() - 1)


def measured_width(loss: Loss, item: Item) -> int:
    """Return how many items like this one fit on its device, from the memory of a step of one and of two of them.

    It needs a CUDA device, and assumes that no other program allocates its memory later. If two do not fit it is 1.
    """
    device = item.target.image.device
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    try:
        peak_1, peak_2 = (_peak_bytes(loss, [item] * count, device) - before for count in (1, 2))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return 1
    torch.cuda.empty_cache()  # cached memory counts as free
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return width_for(peak_1, peak_2, free_bytes)


def _peak_bytes(loss: Loss, items: list[Item], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    slots = Slots(loss, len(items))
    slots.enter(items)
    slots.step()
    return torch.cuda.max_memory_allocated(device)
