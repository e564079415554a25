"""Progress of a long computation, for anyone who listens; without listeners it costs nothing.

A training or an optimisation calls, as often as it likes and on any thread,

    report_progress(step + 1, steps, "steps", f"epoch {epoch + 1} of {epochs}")

and the process that runs it listens: an actor keeps the last report of each kind, which the driver requests and shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.listeners import Listeners


@dataclass(frozen=True)
class WorkProgress:
    """How much of a piece of work is done: `done` of `total`, counted in `what` ("steps", "images")."""

    what: str
    done: float
    total: float
    note: str = ""  # in words, such as "epoch 3 of 100"
    waiting: bool = False  # for something outside; no deadline counts this time

    @property
    def share(self) -> float:
        """The share that is done, in [0, 1]."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else 0.0


_listeners: Listeners[WorkProgress] = Listeners()
listen, listening = _listeners.listen, _listeners.listening


def report_progress(done: float, total: float, what: str, note: str = "") -> None:
    """Tell all listeners in this process that `done` of `total` is done of the current work."""
    if _listeners:
        _listeners.tell(WorkProgress(what, done, total, note))
