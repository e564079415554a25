"""Functions of a process that are called with what its threads report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Report = TypeVar("Report")


class Listeners(Generic[Report]):
    """Those who listen to reports of one kind; without listeners a report costs nothing."""

    def __init__(self) -> None:
        self._all: list[Callable[[Report], None]] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def listen(self, listener: Callable[[Report], None]) -> None:
        """Call a function for every report of this process, from any thread, from now on."""
        self._all.append(listener)

    @contextmanager
    def listening(self, listener: Callable[[Report], None]) -> Iterator[None]:
        """Call a function for every report of this process until the block ends."""
        self.listen(listener)
        try:
            yield
        finally:
            self._all.remove(listener)

    def tell(self, report: Report) -> None:
        """Tell all listeners."""
        for listener in tuple(self._all):
            listener(report)
