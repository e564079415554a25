"""A loss that torch compiles, into CUDA graphs on a GPU, and that goes on without where it cannot."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from generators.latents import Codes
from stages.memory import out_of_memory
from stages.objective import Target
from stages.step import Loss

_log = logging.getLogger(__name__)

CUDA_MODES = ("reduce-overhead", "default")
"""How to compile for a GPU, best first: the first captures CUDA graphs, for which not every thread is fit
(pytorch/pytorch#123177)."""
CPU_MODES = ("default",)


class CompiledLoss:
    """A loss compiled when it is first called, of batches of one shape.

    What cannot be compiled, for want of a compiler for instance, is computed uncompiled from then on, and a warning
    says so. Codes are given a delta in every space that was seen so far, zero where no image has one: else every set
    of spaces that a batch happens to hold would be compiled for itself.
    """

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._modes = list(CUDA_MODES if device.type == "cuda" else CPU_MODES)
        self._compiled: Loss | None = None
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # zero delta and mask by space

    def __call__(self, codes: Codes, target: Target) -> Tensor:
        """Return the terms of each image's loss, ``[len(TERMS), N]``, as the loss does."""
        while self._modes:
            try:
                return self._of_mode(self._modes[0])(self._in_all_spaces(codes), target).clone()
            except Exception as error:  # of any kind: compilers raise what they like, and what is ours is raised below
                if out_of_memory(error):
                    raise
                given_up, self._compiled = self._modes.pop(0), None
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                after = f"compiling in mode {self._modes[0]}" if self._modes else "uncompiled"
                _log.warning("the loss cannot be compiled in mode %s (%s): goes on %s", given_up, reason, after)
        return self._loss(codes, target)

    def _of_mode(self, mode: str) -> Loss:
        if self._compiled is None:
            self._compiled = torch.compile(self._loss, dynamic=False, mode=mode)
        return self._compiled

    def _in_all_spaces(self, codes: Codes) -> Codes:
        count = len(codes.w_plus)
        for space, delta in codes.deltas.items():
            if space not in self._seen or len(self._seen[space][0]) != count:  # it was halved
                self._seen[space] = torch.zeros_like(delta, requires_grad=True), torch.zeros_like(codes.masks[space])
        spaces = [space for space, (delta, _) in sorted(self._seen.items()) if len(delta) == count]
        deltas = {space: codes.deltas.get(space, self._seen[space][0]) for space in spaces}
        masks = {space: codes.masks.get(space, self._seen[space][1]) for space in spaces}
        return Codes(codes.w_plus, deltas, masks)
