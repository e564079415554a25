"""A loss that torch compiles, into CUDA graphs on a GPU; it continues uncompiled if it must."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from generators.latents import Codes
from stages.base.memory import out_of_memory
from stages.objective.loss import Loss
from stages.objective.objective import Target

_log = logging.getLogger(__name__)

CUDA_MODES = ("reduce-overhead", "default")
"""How to compile for a GPU, best first: the first captures CUDA graphs, which torch before 2.15 did not run from every
thread (pytorch/pytorch#123177)."""
CPU_MODES = ("default",)
TRIES = {"reduce-overhead": 3, "default": 1}
"""Passes until a mode is complete: torch compiles the backward when it is first needed, warms CUDA graphs up in
the first pass, captures them in the second and replays them in the third."""
REPAID = {"cpu": 3e8, "cuda": 1e10}
"""Work of a worker that repays compiling: steps of images, times pixels of the canvas. Compiling takes 1 to 2 minutes
of one core. On a CPU, that much work takes 20 minutes or more uncompiled; no GPU has been measured."""


def repays_compiling(steps_of_images: int, side_px: int, device: torch.device) -> bool:
    """Return whether so much work on a square canvas takes long enough for compilation to save time."""
    return steps_of_images * side_px**2 >= REPAID.get(device.type, float("inf"))


class CompiledLoss:
    """A loss compiled when it is first called, and again when a batch has another width.

    If compiling fails, for example without a compiler, the loss is computed uncompiled from then on, with a warning.
    Codes are given a delta in every space that was seen so far, zero where no image has one: otherwise every set
    of spaces in a batch would be compiled separately.
    """

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._modes = list(CUDA_MODES if device.type == "cuda" else CPU_MODES)
        self._compiled: Loss | None = None
        self._count = 0  # images of a batch
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # zero delta and mask by space
        self._tried: set[tuple[str, ...]] = set()  # sets of spaces

    def __call__(self, codes: Codes, target: Target) -> Tensor:
        """Return the terms of each image's loss, ``[len(TERMS), N]``, like the loss."""
        if not self._modes:
            return self._loss(codes, target)
        try:
            return self._terms(self._modes[0], self._in_all_spaces(codes), target).clone()
        except Exception as error:  # compilers raise any kind
            if out_of_memory(error):
                raise
            terms = self._loss(codes, target)  # raises errors that are not the compiler's
            self._give_up(error)
            return terms

    def _terms(self, mode: str, codes: Codes, target: Target) -> Tensor:
        if self._compiled is None:
            self._compiled = torch.compile(self._loss, dynamic=False, mode=mode)
        spaces = tuple(codes.deltas)
        moving = [codes.w_plus, *codes.deltas.values()]
        if spaces not in self._tried and codes.w_plus.requires_grad:
            for _ in range(TRIES[mode]):
                torch.autograd.grad(self._compiled(codes, target).sum(), moving)
            self._tried.add(spaces)
        return self._compiled(codes, target)

    def _in_all_spaces(self, codes: Codes) -> Codes:
        if len(codes.w_plus) != self._count:
            self._forget()
            self._count = len(codes.w_plus)
        for space, delta in codes.deltas.items():
            if space not in self._seen:
                self._seen[space] = torch.zeros_like(delta, requires_grad=True), torch.zeros_like(codes.masks[space])
        seen = sorted(self._seen.items())
        deltas = {space: codes.deltas.get(space, zeros) for space, (zeros, _) in seen}
        masks = {space: codes.masks.get(space, zeros) for space, (_, zeros) in seen}
        return Codes(codes.w_plus, deltas, masks)

    def _forget(self) -> None:
        """Release the compiled code, and the memory of its CUDA graphs."""
        if self._compiled is not None:
            self._compiled = None
            torch.compiler.reset()
            torch.cuda.empty_cache()  # does nothing without CUDA
        self._seen.clear()
        self._tried.clear()

    def _give_up(self, error: Exception) -> None:
        given_up = self._modes.pop(0)
        self._forget()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        after = f"compiling in mode {self._modes[0]}" if self._modes else "uncompiled"
        _log.warning("the loss cannot be compiled in mode %s (%s): continuing %s", given_up, reason, after)
