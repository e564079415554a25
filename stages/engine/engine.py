"""The inversion engine: items from any caller share one batch, which stays full while items wait."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from stages.base.memory import out_of_memory
from stages.engine.batch import Item, Shape, shapes_of
from stages.engine.result import Inversion
from stages.engine.slots import Slots
from stages.engine.tally import Steps, Tally
from stages.objective.loss import Loss

Begin = Callable[[], Item]
"""Makes an item when its turn comes, so that waiting images have no features on the device yet.

It is called again if the image has to restart."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Job:
    begin: Begin
    future: Future[Inversion]
    steps: Steps


class Engine:
    """Inverts the images that any thread submits, in the order of submission, `width` at a time.

    If memory is too small for that, the width is halved for good: the images in flight restart, before
    those that wait, so that each result is that of an engine of the final width.

    One thread steps the batch. It starts with the first item and ends with the last one, so nothing needs closing,
    and an unused engine is collected with its networks.
    """

    def __init__(self, loss: Loss, width: int) -> None:
        self._loss, self._width = loss, width
        self._slots = Slots(loss, width)
        self._shapes: dict[str, Shape] = {}  # of the items in the batch
        self._tenants: dict[int, _Job] = {}  # by slot, in the order of entry
        self._waiting: deque[_Job] = deque()
        self._lock = threading.Lock()  # guards the queue and whether a thread serves it
        self._working = False
        self._tally = Tally()

    def expect(self, images: int) -> None:
        """Start a unit with this number of images; progress of its steps is reported from now on."""
        with self._lock:
            self._tally.begin(images)

    def submit(self, begin: Begin) -> Future[Inversion]:
        """Return the future inversion of one image; it can be cancelled until its turn comes.

        It raises per-image errors only: those of `begin`, `ValueError` if the item has other shapes than
        those in the batch, `torch.OutOfMemoryError` if one image needs too much memory. An error in a step fails every
        image in the batch, since its cause is unknown.
        """
        future: Future[Inversion] = Future()
        with self._lock:
            self._waiting.append(_Job(begin, future, Steps(self._tally.unit)))
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="engine").start()
        return future

    def _work(self) -> None:
        while not self._idle():
            full: str | None = None
            try:
                self._go_on()
            except Exception as error:  # of any kind: callers wait for it on other threads
                if out_of_memory(error):
                    full = str(error)
                else:
                    self._fail(error)
            if full is not None:  # not earlier: the error keeps the step's allocations alive
                try:
                    self._halve(full)
                except Exception as error:  # the device itself has failed
                    self._fail(error)

    def _idle(self) -> bool:
        """Return whether nothing is left; an item that comes later starts a new thread."""
        with self._lock:
            self._working = bool(self._tenants or self._waiting)
            return not self._working

    def _go_on(self) -> None:
        """Give idle slots to waiting items, then take a step."""
        self._enter()
        if self._tenants:
            left = self._slots.step()
            with self._lock:
                self._tally.report(job.steps for job in self._tenants.values())
                for slot in left:
                    self._tally.left(self._tenants[slot].steps)
            for slot, inversion in left.items():
                self._tenants.pop(slot).future.set_result(inversion)

    def _enter(self) -> None:
        items: list[Item] = []
        idle = deque(self._slots.idle)
        while self._waiting and idle:
            job = self._waiting.popleft()
            if not (job.future.running() or job.future.set_running_or_notify_cancel()):
                continue
            self._tenants[idle[0]] = job  # before it begins or enters: memory may be too small
            try:
                items.append(self._fitting(job.begin()))
                job.steps.taken, job.steps.whole = 0, items[-1].schedule.steps
            except Exception as error:
                if out_of_memory(error):
                    raise
                self._tenants.pop(idle[0]).future.set_exception(error)  # a per-image error
            else:
                idle.popleft()
        self._slots.enter(items)

    def _fitting(self, item: Item) -> Item:
        """Return an item whose shapes are those of the batch; raise `ValueError` if they are not."""
        shapes = shapes_of(item)
        for name, shape in shapes.items():
            wanted = self._shapes.get(name, shape)
            if shape != wanted:
                raise ValueError(
                    f"the images of a batch have one shape: expected {name} {list(wanted)}, got {list(shape)}; "
                    "fit all images to one region, and invert them in one generator"
                )
        self._shapes |= shapes
        return item

    def _fail(self, error: Exception) -> None:
        """Fail the images in the batch and start with an empty one, of any shapes."""
        for job in self._emptied(self._width):
            job.future.set_exception(error)

    def _halve(self, reason: str) -> None:
        """Restart the images in flight at half the width; at width 1, fail the image."""
        before = self._width
        jobs = self._emptied(max(1, before // 2))
        if before > 1:
            _log.warning("no memory for %d images at once, continuing with %d: %s", before, self._width, reason)
            self._waiting.extendleft(reversed(jobs))
        else:
            error = torch.OutOfMemoryError(
                "memory is too small for one image: lower objective.side_px, choose a smaller perceptual network "
                "(perceptual.backbone: alex or squeeze) or generator, or stop other programs on the device; " + reason
            )
            for job in jobs:
                job.future.set_exception(error)
        torch.cuda.empty_cache()  # does nothing without CUDA

    def _emptied(self, width: int) -> list[_Job]:
        """Replace the batch and its images by an empty one of this width; return the images' jobs."""
        jobs, self._tenants = list(self._tenants.values()), {}
        self._width, self._slots, self._shapes = width, Slots(self._loss, width), {}
        return jobs


def in_turn(futures: Iterable[Future[Inversion]]) -> Iterator[Inversion]:
    """Yield inversions in the order of submission, waiting for each; after a failure, drop the rest."""
    remaining = deque(futures)
    try:
        while remaining:
            yield remaining.popleft().result()
    finally:
        for future in remaining:
            future.cancel()
