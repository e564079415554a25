"""The supervising loop over Ray actors: spawn, feed, time out, replace, report; nothing else.

Actors commit inside themselves, so a task may run twice and its result may be lost in transit without harm. A task
in flight when its actor died, hung or raised is a suspect: it is retried alone, so that innocent neighbours
are not blamed with it. Actors lost together with their machine count separately.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from infra.errors import Damage, DamagedBundleError, ShardError, TransientError
from pipeline.errors import USER_ERRORS, RunError
from pipeline.execution.hosts import IN_FLIGHT, Hosts, Size
from pipeline.jobs.job import AnyTask_contra, Job, UnitResult
from stages.base.progress import WorkProgress

TICK_S = 1.0
WATCH_S = 2.0  # between two requests for a worker's progress
READY_NOTICE_S = 120.0
UNSCHEDULED_NOTICE_S = 30.0  # between two messages about workers that no machine has room for


@dataclass(frozen=True)
class Resources:
    """The resources of each actor, and the patience of the loop."""

    workers: int
    size: Size
    unit_deadline_s: float
    attempts: int
    lost_workers: int
    open_deadline_s: float = 1800.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of all tasks: those done, those given up with the last reason, and the damage met by the others."""

    done: list[UnitResult]
    failed: dict[str, str]
    damaged: list[Damage] = field(default_factory=list)  # bundles that tasks read and found damaged


@dataclass
class _Worker:
    """The loop's view of one actor."""

    actor: Any
    starting: Any  # reference of the call that returns its node
    opening: Any  # reference of the call that opens the job
    nodes: frozenset[str]  # alive when the actor was requested
    node: str | None = None  # None until it has started
    opened: bool = False
    spawned_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0
    flights: dict[Any, Any] = field(default_factory=dict)  # reference of a call: its task
    alive_at: float = field(default_factory=time.monotonic)  # when it last reported progress
    asked: Any = None  # the pending request for progress
    asked_at: float = 0.0

    @property
    def name(self) -> str:
        """The actor's id, which identifies this worker."""
        return str(self.actor._actor_id.hex())


class Watcher(Protocol):
    """Receives the progress of the work."""

    def done(self, done: UnitResult) -> None:
        """Record a task that ended."""

    def reached(self, worker: str, reached: Sequence[WorkProgress]) -> None:
        """Record the progress of a worker's current tasks; nothing if it has none."""

    def say(self, text: str) -> None:
        """Pass on a message for users."""


class Supervisor(Generic[AnyTask_contra]):
    """Runs a job's tasks over a number of actors, which it borrows."""

    def __init__(
        self,
        job: Job[AnyTask_contra],
        hosts: Hosts,
        resources: Resources,
        watcher: Watcher,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.job, self.hosts, self.resources, self.watcher = job, hosts, resources, watcher
        self.check = check  # called often; raises if the cluster is lost
        self.waiting: deque[AnyTask_contra] = deque()
        self.suspects: deque[AnyTask_contra] = deque()
        self.tries: dict[str, int] = {}
        self.workers: list[_Worker] = []
        self.lost = 0  # workers lost with their machine
        self.unopened = 0  # workers in a row that could not open the job
        self.noticed_at = 0.0
        self.outcome = Outcome([], {})

    def execute(self, tasks: Iterable[AnyTask_contra]) -> Outcome:
        """Return the outcome of all tasks.

        Raises:
            RunError: the job cannot be opened anywhere, no machine has room for a worker, too many machines were lost,
                or the cluster itself was.
            Exception: a permanent error of ours, such as a store that refuses; it stops the run.
        """
        self.waiting.extend(tasks)
        try:
            while self.waiting or self.suspects or any(worker.flights for worker in self.workers):
                self.check()
                self._spawn()
                self._feed()
                self._collect()
                self._watch()
                self._time_out()
        finally:
            for worker in self.workers:
                if not worker.opened or worker.flights:  # in the middle of unneeded work
                    ray.kill(worker.actor)
                else:
                    self.hosts.keep(worker.actor)
        return self.outcome

    def _spawn(self) -> None:
        open_tasks = len(self.waiting) + len(self.suspects) + sum(len(worker.flights) for worker in self.workers)
        while len(self.workers) < min(self.resources.workers, open_tasks):
            actor = self.hosts.take(self.resources.size)
            self.workers.append(_Worker(actor, actor.where.remote(), actor.open.remote(self.job), _alive_nodes()))

    def _feed(self) -> None:
        """Give every open actor enough to do; give a suspect only to an idle actor."""
        left = len(self.waiting) + sum(len(worker.flights) for worker in self.workers)
        most = most_in_flight(left, self.resources.workers)
        for worker in self.workers:
            if not worker.opened:
                continue
            if self.suspects and not worker.flights:
                self._launch(worker, self.suspects.popleft())
            while self.waiting and len(worker.flights) < most and not self._holds_suspect(worker):
                self._launch(worker, self.waiting.popleft())

    def _holds_suspect(self, worker: _Worker) -> bool:
        return any(task.name in self.tries for task in worker.flights.values())

    def _launch(self, worker: _Worker, task: AnyTask_contra) -> None:
        if not worker.flights:
            worker.alive_at = time.monotonic()
        worker.flights[worker.actor.run.remote(task)] = task

    def _collect(self) -> None:
        """Wait a moment for results, and record all that arrived."""
        pending = {ref: worker for worker in self.workers for ref in worker.flights}
        pending |= {worker.opening: worker for worker in self.workers if not worker.opened}
        pending |= {worker.starting: worker for worker in self.workers if worker.node is None}
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=TICK_S)
        more, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        for ref in {*ready, *more}:
            if pending[ref] in self.workers:
                self._settle(pending[ref], ref)

    def _settle(self, worker: _Worker, ref: Any) -> None:  # noqa: ANN401  # an object reference
        task = worker.flights.pop(ref, None)
        worker.alive_at = time.monotonic()
        try:
            result = ray.get(ref, timeout=READY_NOTICE_S)
        except RayTaskError as error:
            self._raised(worker, task, error)
        except (RayActorError, GetTimeoutError) as error:
            self._replace(worker, [task] if task else [], _first_line(error))
        else:
            if ref == worker.starting:
                worker.node, worker.started_at = result, time.monotonic()
                return
            if task is None:
                worker.opened, self.unopened = True, 0
                return
            self.tries.pop(task.name, None)
            self.outcome.done.append(result)
            self.watcher.done(result)

    def _raised(self, worker: _Worker, task: AnyTask_contra | None, error: RayTaskError) -> None:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if task is not None and isinstance(cause, DamagedBundleError):
            self.outcome.damaged.extend(cause.damages)  # not the task's fault: it waits until they are made again
            return
        if task is not None and isinstance(cause, ShardError):
            self.outcome.failed[task.name] = str(cause)  # another attempt would read the same shard
            return
        if task is None or (isinstance(cause, USER_ERRORS) and not isinstance(cause, TransientError)):
            raise cause  # the job cannot be opened, or a store or checkpoint refuses: and would everywhere
        reason = f"{type(cause).__name__}: {cause}"
        if any(sign in reason for sign in ("CUDA", "cuda", "OutOfMemoryError")):
            self._replace(worker, [task], reason)  # a CUDA context does not recover, nor does a halved batch
        else:
            self._blame(task, reason)

    def _watch(self) -> None:
        """Request the progress of the workers, and pass on their answers; never wait for one that is stuck."""
        asked = {worker.asked: worker for worker in self.workers if worker.asked is not None}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for ref in answered:
            worker, asked[ref].asked = asked[ref], None
            with suppress(RayError):  # its tasks report a lost worker
                reached = ray.get(ref, timeout=TICK_S) if worker.flights or not worker.opened else ()
                self.watcher.reached(worker.name, reached)
                if any(part.waiting for part in reached):
                    worker.alive_at = worker.started_at = time.monotonic()  # no deadline counts this time
        for worker in self.workers:
            if worker.node is not None and worker.asked is None and time.monotonic() - worker.asked_at > WATCH_S:
                worker.asked, worker.asked_at = worker.actor.reached.remote(), time.monotonic()

    def _replace(self, worker: _Worker, tasks: list[AnyTask_contra], reason: str) -> None:
        """Give an actor up, fence it, and retry its tasks."""
        self.workers.remove(worker)
        self.watcher.reached(worker.name, ())
        ray.kill(worker.actor)
        tasks = [*tasks, *worker.flights.values()]
        if not _machine_is_lost(worker):
            for task in tasks:
                self._blame(task, reason)
            if not worker.opened:
                self._not_opened(reason)
            return
        self.waiting.extendleft(reversed(tasks))
        self.lost += 1
        if self.lost > self.resources.lost_workers:
            raise RunError(f"{self.job.name}: {self.lost} workers were lost or never started, the last with: {reason}")

    def _not_opened(self, reason: str) -> None:
        """Count a worker that ended or hung while it opened the job; others will probably do the same."""
        self.unopened += 1
        if self.unopened >= self.resources.attempts:
            raise RunError(
                f"{self.job.name}: {self.unopened} workers in a row could not load what they need, the last with: "
                f"{reason}. If they ended silently, memory may be too small for their number (compute.workers)"
            )

    def _blame(self, task: AnyTask_contra, reason: str) -> None:
        self.tries[task.name] = self.tries.get(task.name, 0) + 1
        if self.tries[task.name] < self.resources.attempts:
            self.suspects.append(task)
        else:
            self.outcome.failed[task.name] = f"given up after {self.resources.attempts} attempts: {reason}"

    def _time_out(self) -> None:
        limit_s = self.resources.unit_deadline_s
        for worker in list(self.workers):
            if worker.flights and time.monotonic() - worker.alive_at > limit_s:
                self._replace(worker, [], f"nothing finished within {limit_s:.0f} s (compute.unit_deadline_s)")
        limit_s = self.resources.open_deadline_s
        for worker in list(self.workers):
            if worker.node is not None and not worker.opened and time.monotonic() - worker.started_at > limit_s:
                self._replace(worker, [], f"not opened within {limit_s:.0f} s (compute.open_deadline_s)")
        self._notice_unscheduled()

    def _notice_unscheduled(self) -> None:
        """Report the workers that no machine has room for; end if nothing has worked for too long because of that."""
        now = time.monotonic()
        waits = [now - worker.spawned_at for worker in self.workers if worker.node is None]
        if not waits or max(waits) < UNSCHEDULED_NOTICE_S or now - self.noticed_at < UNSCHEDULED_NOTICE_S:
            return
        self.noticed_at = now
        size, there, free = self.resources.size, ray.cluster_resources(), ray.available_resources()
        text = (
            f"{len(waits)} of {len(self.workers)} workers wait for a machine with {size.cpus:g} CPU and {size.gpus:g} "
            f"GPU free; of {there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU in the cluster "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
        )
        if len(waits) == len(self.workers) and min(waits) > self.resources.open_deadline_s:
            raise RunError(
                f"{self.job.name}: {text}, for more than {self.resources.open_deadline_s:.0f} s "
                "(compute.open_deadline_s). Add machines, stop other programs, or lower compute.cpus_per_worker or "
                "compute.gpus_per_worker"
            )
        self.watcher.say(f"{self.job.name}: {text}")


def most_in_flight(left: int, workers: int) -> int:
    """Return how many tasks an actor may hold: near the end its share of the rest, so that all end together."""
    return min(IN_FLIGHT, -(-left // workers))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _machine_is_lost(worker: _Worker) -> bool:
    """Return whether a worker ended with its machine; one that ended before it reported its machine, with any."""
    nodes = worker.nodes if worker.node is None else {worker.node}
    return not nodes <= _alive_nodes()


def _alive_nodes() -> frozenset[str]:
    return frozenset(str(entry["NodeID"]) for entry in ray.nodes() if entry["Alive"])
