"""Each user's share of the time, if several threads use one device at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SharedTime:
    """Shares the time of use equally among the users present at each moment.

    So the shares add up to the total time of use, whether users take turns or overlap,
    and waiting costs no more than using. (The virtual time of processor sharing.)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._users = 0
        self._share_s = 0.0  # of a user present from the beginning
        self._changed = now()

    @contextmanager
    def use(self) -> Iterator[Callable[[], float]]:
        """Use it for the length of the block; the yielded function returns the share of the time so far, in seconds."""
        began_s = self._change(1)
        try:
            yield lambda: self._change(0) - began_s
        finally:
            self._change(-1)

    def _change(self, users: int) -> float:
        """Let users come or go, and return the share of a user present from the beginning."""
        with self._lock:
            now = self._now()
            if self._users:
                self._share_s += (now - self._changed) / self._users
            self._users, self._changed = self._users + users, now
            return self._share_s
