"""The actors that run jobs, kept from stage to stage: torch is imported once per process, a GPU is pinned once."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TextIO

import ray

from infra.stores import waiting
from pipeline.jobs.job import Job, UnitResult
from stages.base.progress import WorkProgress, listen

IN_FLIGHT = 3  # tasks an actor holds: one is read, one computed, one written
WATCHING = "watching"  # the concurrency group of calls made while tasks run

HEARD = ("generators", "stages")  # packages whose warnings the driver shows


class _Warnings(logging.StreamHandler[TextIO]):
    """Writes warnings to the worker's log, and keeps them until they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._texts: deque[str] = deque()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self._texts.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        """Return the warnings since the last call; each of them to one of the calling threads."""
        taken: list[str] = []
        with suppress(IndexError):
            while True:
                taken.append(self._texts.popleft())
        return tuple(taken)


class Host:
    """The actor: opens one job after another, and runs the tasks of the open job."""

    def __init__(self) -> None:
        self._run: Callable[[Any], UnitResult] | None = None
        self._warnings = _Warnings()
        self._reached: dict[str, WorkProgress] = {}
        listen(self._note)
        waiting.listen(lambda wait: self._note(as_progress(wait)))
        for package in HEARD:
            logging.getLogger(package).addHandler(self._warnings)

    def where(self) -> str:
        """Return the id of the node that this runs on; the first sign of life."""
        return str(ray.get_runtime_context().get_node_id())

    def open(self, job: Job[Any]) -> None:
        """Load what the job needs, replacing the last one."""
        self._run = None
        self._reached.clear()
        gc.collect()  # free the last job's networks before loading the next
        self._run = job.open()

    def run(self, task: Any) -> UnitResult:  # noqa: ANN401  # whatever tasks the job takes
        """Run one task to its committed result; return it with the warnings meanwhile."""
        assert self._run is not None
        done = self._run(task)
        return replace(done, warnings=(*done.warnings, *self._warnings.taken()))

    @ray.method(concurrency_group=WATCHING)
    def reached(self) -> tuple[WorkProgress, ...]:
        """Return the progress of the current work, the last report of each kind; answered while tasks run."""
        return tuple(self._reached.copy().values())

    def _note(self, reached: WorkProgress) -> None:
        if reached.done < reached.total:
            self._reached[reached.what] = reached
        else:
            self._reached.pop(reached.what, None)


def as_progress(wait: waiting.Waiting) -> WorkProgress:
    """Report a waiting thread as progress: seconds of its patience."""
    done = wait.patience_s if wait.over else min(wait.waited_s, wait.patience_s * 0.999)
    return WorkProgress(f"s waited for {wait.place}", done, wait.patience_s, str(wait), waiting=True)


@dataclass(frozen=True)
class Size:
    """The resources that Ray reserves for an actor."""

    gpus: float
    cpus: float


class Hosts:
    """The actors of a run, all of one size. Requesting another size replaces them."""

    def __init__(self) -> None:
        self._size: Size | None = None
        self._idle: list[Any] = []

    def take(self, size: Size) -> Any:  # noqa: ANN401  # Ray's handle of an actor
        """Return an idle actor, started if there is none."""
        if size != self._size:
            self.close()
            self._size = size
        if self._idle:
            return self._idle.pop()
        actor: Any = ray.remote(concurrency_groups={WATCHING: 1})(Host)  # type: ignore[call-overload]
        return actor.options(num_gpus=size.gpus, num_cpus=size.cpus, max_concurrency=IN_FLIGHT).remote()

    def keep(self, actor: Any) -> None:  # noqa: ANN401  # Ray's handle of an actor
        """Take back an actor that has finished all its tasks."""
        self._idle.append(actor)

    def close(self) -> None:
        """Kill the idle actors; their resources are free again."""
        for actor in self._idle:
            ray.kill(actor)
        self._idle.clear()
