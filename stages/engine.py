"""The inversion engine: items from anywhere go through one batch, which is never drained while any of them waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from stages.batch import Item
from stages.inversion import Inversion
from stages.slots import Slots
from stages.step import Loss

Begin = Callable[[], Item]
"""Makes an item when its turn has come, so that images that wait have no features on the device yet."""


class Engine:
    """Inverts what any thread submits, in the order in which it comes, `width` images at a time.

    One thread steps the batch. It begins with the first item and ends with the last one, so there is nothing to close,
    and an engine that nobody holds any longer is collected with its networks.
    """

    def __init__(self, loss: Loss, width: int) -> None:
        self._loss, self._width = loss, width
        self._slots = Slots(loss, width)
        self._tenants: dict[int, Future[Inversion]] = {}  # by slot
        self._waiting: deque[tuple[Begin, Future[Inversion]]] = deque()
        self._lock = threading.Lock()  # of what waits and whether it is worked off
        self._working = False

    def submit(self, begin: Begin) -> Future[Inversion]:
        """Return the future inversion of one image.

        It raises what `begin` raises, or what a step raises of the batch that it is in; until then it can be cancelled.
        """
        future: Future[Inversion] = Future()
        with self._lock:
            self._waiting.append((begin, future))
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="engine").start()
        return future

    def _work(self) -> None:
        while not self._idle():
            try:
                self._enter()
                if self._tenants:
                    for slot, inversion in self._slots.step().items():
                        self._tenants.pop(slot).set_result(inversion)
            except Exception as error:  # of any kind: the callers wait for it on other threads
                self._fail(error)

    def _idle(self) -> bool:
        """Say whether nothing is left; an item that comes after that finds nobody working."""
        with self._lock:
            self._working = bool(self._tenants or self._waiting)
            return not self._working

    def _enter(self) -> None:
        """Give idle slots to what waits."""
        items: list[Item] = []
        futures: list[Future[Inversion]] = []
        while self._waiting and len(items) < len(self._slots.idle):
            begin, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                items.append(begin())
            except Exception as error:  # it concerns this image alone
                future.set_exception(error)
            else:
                futures.append(future)
        self._tenants |= dict(zip(self._slots.idle, futures, strict=False))  # before they enter: that may fail
        self._slots.enter(items)

    def _fail(self, error: Exception) -> None:
        """Fail the images in the batch and begin with an empty one."""
        failed, self._tenants = self._tenants, {}
        self._slots = Slots(self._loss, self._width)
        for future in failed.values():
            future.set_exception(error)


def in_turn(futures: Iterable[Future[Inversion]]) -> Iterator[Inversion]:
    """Yield inversions in the order in which they were submitted, waiting for each; after a failure nobody waits."""
    remaining = deque(futures)
    try:
        while remaining:
            yield remaining.popleft().result()
    finally:
        for future in remaining:
            future.cancel()
