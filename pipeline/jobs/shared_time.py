"""Whose time it was, where several threads use one device at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SharedTime:
    """Shares the time in which something is used equally among those who use it at that moment.

    So the shares add up to the time in which it was used at all, whether its users take turns or go on side by side,
    and to wait for it costs nobody more than to use it. (The virtual time of processor sharing.)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._users = 0
        self._share_s = 0.0  # of somebody who was there from the beginning
        self._changed = now()

    @contextmanager
    def use(self) -> Iterator[Callable[[], float]]:
        """Use it for the length of the block; what is lent returns the share of the time so far, in seconds."""
        began_s = self._change(1)
        try:
            yield lambda: self._change(0) - began_s
        finally:
            self._change(-1)

    def _change(self, users: int) -> float:
        """Let users come or go, and return what somebody's share would be who was there from the beginning."""
        with self._lock:
            now = self._now()
            if self._users:
                self._share_s += (now - self._changed) / self._users
            self._users, self._changed = self._users + users, now
            return self._share_s
