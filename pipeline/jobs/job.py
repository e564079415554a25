"""The contract of a job: opened once on its machine, then run task after task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from infra.receipts import Receipt


class Task(Protocol):
    """One piece of work; its name is used in progress, errors and addresses."""

    @property
    def name(self) -> str:
        """The name of the unit."""


AnyTask_contra = TypeVar("AnyTask_contra", bound=Task, contravariant=True)


@dataclass(frozen=True)
class UnitResult:
    """The result of a task, as the supervising loop needs it."""

    unit: str
    recorded: int
    quarantined: int
    warnings: tuple[str, ...] = ()  # warnings of the code that ran it

    @classmethod
    def from_receipt(cls, receipt: Receipt) -> UnitResult:
        """Return the counts of a committed bundle."""
        return cls(receipt.unit, len(receipt.recorded), len(receipt.quarantined))


class Job(Protocol[AnyTask_contra]):
    """Work that can be sent to another process: `open` loads what it needs there and returns the function to call.

    Calls come from several threads at once, so that one unit is read and another written while a third is computed;
    the job serialises what must not overlap. A call commits its result before it returns and may be repeated at any
    time.
    """

    @property
    def name(self) -> str:
        """The stage, in progress and errors."""

    def open(self) -> Callable[[AnyTask_contra], UnitResult]:
        """Load networks and return the function that runs one task."""
