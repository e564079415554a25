"""How far a long computation is, for whoever watches it; without anyone it costs nothing.

A training or an optimisation calls, as often as it likes and on any thread,

    report_progress(step + 1, steps, "steps", f"epoch {epoch + 1} of {epochs}")

and what runs it listens: an actor keeps the last report of each kind, which the driver asks for and shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkProgress:
    """How much of a piece of work is done: `done` of `total`, counted in `what` ("steps", "images")."""

    what: str
    done: float
    total: float
    note: str = ""  # in words, as "epoch 3 of 100"
    waiting: bool = False  # for something outside, which no deadline counts

    @property
    def share(self) -> float:
        """The share that is done, in [0, 1]."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else 0.0


Listener = Callable[[WorkProgress], None]

_listeners: list[Listener] = []


def report_progress(done: float, total: float, what: str, note: str = "") -> None:
    """Tell everyone who listens in this process that `done` of `total` is done of the work under way."""
    if _listeners:
        reached = WorkProgress(what, done, total, note)
        for listener in tuple(_listeners):
            listener(reached)


def listen(listener: Listener) -> None:
    """Let a function hear every report of this process, from whatever thread, from now on."""
    _listeners.append(listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a function hear every report of this process until the block ends."""
    listen(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
