"""Communication between the workers of a data-parallel training; a single worker answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """Worker `rank` of `world`. Several need `torch.distributed`, and must make the same calls in the same order."""

    rank: int = 0
    world: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this worker's share of the items."""
        return items[self.rank :: self.world]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all workers; the tensor itself is overwritten."""
        if self.world > 1:
            torch_distributed.all_reduce(tensor)
        return tensor

    def gathered(self, mine: Sequence[T]) -> list[T]:
        """Return the items of all workers, in the order of the workers."""
        parts: list[Any] = [list(mine)]
        if self.world > 1:
            parts = [None] * self.world
            torch_distributed.all_gather_object(parts, list(mine))
        return [item for part in parts for item in part]

    def of_first(self, value: T) -> T:
        """Return the first worker's value."""
        box: list[Any] = [value]
        if self.world > 1:
            torch_distributed.broadcast_object_list(box, src=0)
        found: T = box[0]
        return found

    def first_says(self, answer: bool, device: torch.device) -> bool:
        """Return the first worker's answer; cheap enough to ask at every step."""
        if self.world == 1:
            return answer
        flag = torch.tensor([answer], dtype=torch.int32, device=device)
        torch_distributed.broadcast(flag, src=0)
        return bool(flag)
