"""What all trainings have in common as jobs: they resume from the store, train, and commit one bundle."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from torch import nn

from infra.receipts import Address, Ledger, Receipt
from pipeline.data.weights import Weights
from pipeline.jobs.job import UnitResult
from pipeline.training.states import StoredStates
from stages.base.device import choose_kernels, process_device
from stages.training.workers import Workers

Wrap = Callable[[nn.Module], nn.Module]
Result = TypeVar("Result")


def as_it_is(module: nn.Module) -> nn.Module:
    """Return a network unchanged: one worker needs no wrapper."""
    return module


@dataclass(frozen=True, kw_only=True)
class TrainingJob(ABC, Generic[Result]):
    """One training, from committed examples to a committed checkpoint. It is its own single task."""

    address: Address
    threads: int = 1
    weights: tuple[Weights, ...] = ()  # named by the stage, by paths on the driver

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.address.stage

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """Where examples, states and the result are."""

    @abstractmethod
    def trained(self, device: torch.device, workers: Workers, wrap: Wrap) -> Result:
        """Train, resuming from the last state of an interrupted training.

        Args:
            device: of this process.
            workers: which worker this process is.
            wrap: makes a network data-parallel.
        """

    @abstractmethod
    def commit(self, result: Result, started: float, device: str) -> Receipt:
        """Commit a trained network with its curve and the outcomes of its examples; delete its state."""

    def open(self) -> Callable[[Self], UnitResult]:
        """Return the function that trains on this process's device."""
        torch.set_num_threads(self.threads)
        device = process_device()
        choose_kernels("tf32")
        return lambda _task: self.run(device)

    def run(self, device: torch.device) -> UnitResult:
        """Train as the only worker, and commit."""
        started = time.time()
        result = self.trained(device, Workers(), as_it_is)
        return UnitResult.from_receipt(self.commit(result, started, str(device)))

    def states_of(self, units: Sequence[str], every_s: float) -> StoredStates:
        """Return the store of this training's state on some units."""
        return StoredStates(self.ledger.store, self.address.fingerprint, units, every_s)


def outcomes_of(samples: Iterable[tuple[str, str]], rejected: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
    """Return the outcome of every sample that was trained on, given by unit and key; unfit ones have a reason.

    A key that occurs in several shards is named with its unit.
    """
    keys = list(samples)
    times = Counter(key for _, key in keys)
    return {key if times[key] == 1 else f"{key} of {unit}": rejected.get(unit, {}).get(key) for unit, key in keys}
