"""The supervising loop over real Ray actors: what dies, hangs or raises is tried again, alone, and then reported."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.errors import StoreError
from pipeline.errors import ClusterLostError, RunError
from pipeline.execution import supervisor as execute
from pipeline.execution.hosts import IN_FLIGHT, Hosts, Size, _Warnings
from pipeline.execution.progress import Progress
from pipeline.execution.run import Run
from pipeline.execution.supervisor import Outcome, Resources, Supervisor, most_in_flight
from pipeline.jobs.job import UnitResult
from stages.base.progress import WorkProgress
from tests.pipeline.acting import Job, Task, go_on

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def hosts(ray_here):
    """The actors of all tests: those that a test leaves alive serve the next, as they serve the next stage of a run."""
    hosts = Hosts()
    yield hosts
    hosts.close()


@dataclass
class Told:
    """What the loop reported while it ran."""

    ended: list[UnitResult] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    at_work: list[tuple[WorkProgress, ...]] = field(default_factory=list)
    on_reached: Callable[[], None] = lambda: None

    def done(self, done: UnitResult) -> None:
        self.ended.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)

    def reached(self, worker: str, reached: Sequence[WorkProgress]) -> None:
        self.at_work.append(tuple(reached))
        if reached:
            self.on_reached()


@pytest.fixture
def run(tmp_path: Path, hosts: Hosts):
    """Return a function that runs tasks and gives the outcome, what was reported, and the job."""

    def run(
        *tasks: Task, workers: int = 1, deadline_s: float = 600.0, attempts: int = 2, cpus: float = 1, **more: Any
    ) -> tuple[Outcome, Told, Job]:
        job = Job(tmp_path, opens=more.pop("opens", "succeed"), opens_times=more.pop("opens_times", 1000))
        told = Told(on_reached=lambda: go_on(tmp_path))
        resources = Resources(
            workers=workers,
            size=Size(gpus=0, cpus=cpus),
            unit_deadline_s=deadline_s,
            attempts=attempts,
            lost_workers=0,
            **more,
        )
        return Supervisor(job, hosts, resources, told).execute(tasks), told, job

    return run


def units(done: list[UnitResult]) -> list[str]:
    return sorted(one.unit for one in done)


def test_every_task_is_done_once_and_reported_as_it_ends(run):
    names = [f"unit-{i}" for i in range(6)]
    outcome, told, job = run(*map(Task, names), workers=2)
    assert outcome.failed == {}
    assert told.ended == outcome.done
    assert sorted((one.unit, one.recorded) for one in told.ended) == [(name, 1) for name in names]
    assert [len(job.calls(name)) for name in names] == [1] * 6


def test_what_a_worker_is_warned_of_comes_with_the_task(run):
    outcome, _, _ = run(Task("a", "warn"), Task("b"))
    warned = {one.unit: one.warnings for one in outcome.done}
    assert sum(warned.values(), ()) == ("it is getting tight",)


def test_a_warning_is_taken_once_by_threads_that_ask_together():
    heard, log = _Warnings(), logging.getLogger("test_execute")
    log.addHandler(heard)
    try:
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(lambda: [heard.taken() for _ in range(2000)]) for _ in range(3)]
            for number in range(500):
                log.warning("%d", number)
            taken = [text for one in asked for texts in one.result() for text in texts]
    finally:
        log.removeHandler(heard)
    assert sorted(map(int, (*taken, *heard.taken()))) == list(range(500))


def test_an_actor_holds_no_more_than_its_share_of_the_tasks_left():
    held = [most_in_flight(left, workers=2) for left in (1, 2, 3, 4, 5, 1000)]
    assert held == [1, 1, 2, 2, IN_FLIGHT, IN_FLIGHT]


def test_nothing_to_do_starts_no_worker(tmp_path: Path):
    told = Told()
    resources = Resources(2, Size(0, 1), unit_deadline_s=600, attempts=2, lost_workers=0)
    supervisor = Supervisor(Job(tmp_path), Hosts(), resources, told)
    assert supervisor.execute([]) == Outcome([], {})
    assert (supervisor.workers, told.ended) == ([], [])


def test_how_far_a_task_is_comes_from_inside_the_worker_while_it_runs(run):
    outcome, told, _ = run(Task("long", "advance"))
    assert outcome.failed == {}
    assert (WorkProgress("steps", 3, 10, "epoch 1 of 4"),) in told.at_work


def test_the_loop_rests_while_one_worker_is_done_and_another_is_not(tmp_path: Path, hosts: Hosts):
    turns = []
    told = Told(on_reached=lambda: go_on(tmp_path))
    resources = Resources(2, Size(0, 1), unit_deadline_s=600, attempts=2, lost_workers=0)
    supervisor = Supervisor(Job(tmp_path), hosts, resources, told, lambda: turns.append(1))
    outcome = supervisor.execute([Task("a", "advance"), Task("b")])
    assert units(outcome.done) == ["a", "b"]
    assert len(turns) < 60


def test_a_task_whose_worker_was_killed_once_is_done_by_another(run):
    outcome, told, job = run(Task("a"), Task("unlucky", "die", times=1), Task("b"), Task("c"))
    assert outcome.failed == {}
    assert units(told.ended) == ["a", "b", "c", "unlucky"]
    assert len(set(job.calls("unlucky"))) == 2


def test_a_task_that_kills_every_worker_is_given_up_and_its_neighbours_are_not(run):
    neighbours = [Task(f"innocent-{i}") for i in range(4)]
    outcome, told, job = run(*neighbours[:2], Task("poison", "die"), *neighbours[2:], attempts=3)
    assert list(outcome.failed) == ["poison"]
    assert outcome.failed["poison"].startswith("given up after 3 attempts: ")
    assert len(job.calls("poison")) == 3
    assert units(told.ended) == [task.name for task in neighbours]


def test_a_task_that_raises_is_reported_with_its_reason_and_its_worker_is_kept(run):
    outcome, told, job = run(Task("bad", "raise"), Task("good"), Task("fine"))
    assert outcome.failed == {"bad": "given up after 2 attempts: ValueError: seven is not a picture"}
    assert units(told.ended) == ["fine", "good"]
    assert len({*job.calls("bad"), *job.calls("good"), *job.calls("fine")}) == 1


def test_a_transient_fault_is_tried_again(run):
    outcome, told, job = run(Task("flaky", "falter", times=2), attempts=3)
    assert outcome.failed == {}
    assert told.ended == [UnitResult("flaky", recorded=3, quarantined=0)]
    assert len(job.calls("flaky")) == 3


def test_a_task_that_hangs_is_taken_from_its_worker_at_the_deadline(run):
    outcome, told, job = run(Task("slow", "hang", times=1), Task("quick"), deadline_s=4.0)
    assert outcome.failed == {}
    assert units(told.ended) == ["quick", "slow"]
    first, second = job.calls("slow")
    assert first != second
    assert not _is_running(first)


def test_a_task_that_always_hangs_is_given_up_with_the_setting_to_change(run):
    outcome, told, job = run(Task("slow", "hang"), Task("quick"), deadline_s=3.0)
    assert list(outcome.failed) == ["slow"]
    assert "nothing finished within 3 s (compute.unit_deadline_s)" in outcome.failed["slow"]
    assert len(job.calls("slow")) == 2
    assert units(told.ended) == ["quick"]


def test_the_time_for_which_a_task_waits_for_a_store_is_not_its_own(run):
    outcome, told, job = run(Task("waiting", "wait", times=1), deadline_s=4.0, attempts=1)
    assert outcome.failed == {}
    assert len(job.calls("waiting")) == 1
    waits = [part for parts in told.at_work for part in parts if part.waiting]
    assert waits[0].note == "cannot reach http://store: nobody answers; trying again for up to 60 min"


def test_the_time_for_which_a_worker_waits_while_it_opens_a_job_is_not_its_own(run):
    outcome, told, job = run(Task("a"), opens="wait", opens_times=1, open_deadline_s=4.0)
    assert outcome.failed == {}
    assert len(job.openers()) == 1
    assert any(part.waiting for parts in told.at_work for part in parts)


def test_a_task_that_meets_a_damaged_bundle_is_not_blamed_and_its_neighbours_are_done(run):
    outcome, told, job = run(Task("a"), Task("reader", "read damaged"), Task("b"), attempts=3)
    assert outcome.failed == {}
    assert [(damage.stage, damage.unit) for damage in outcome.damaged] == [("earlier", "unit-7")]
    assert units(told.ended) == ["a", "b"]
    assert len(job.calls("reader")) == 1


def test_a_shard_that_changed_fails_its_unit_at_once_and_no_other(run):
    outcome, told, job = run(Task("changed", "change"), Task("good"), attempts=3)
    assert outcome.failed == {"changed": "a.tar changed since it was scanned; run again"}
    assert units(told.ended) == ["good"]
    assert len(job.calls("changed")) == 1


def test_a_store_that_refuses_stops_the_run(run, tmp_path: Path):
    waiting = [Task(f"later-{i:02d}") for i in range(20)]
    with pytest.raises(StoreError, match="access denied to bucket mill"):
        run(Task("refused", "refuse"), *waiting, attempts=3)
    job = Job(tmp_path)
    assert len(job.calls("refused")) == 1
    assert sum(len(job.calls(task.name)) for task in waiting) < len(waiting)


def test_a_job_that_cannot_be_opened_stops_the_run_with_its_reason(tmp_path: Path, hosts: Hosts):
    resources = Resources(1, Size(0, 1), unit_deadline_s=600, attempts=3, lost_workers=0)
    with pytest.raises(StoreError, match="no such weights"):
        Supervisor(Job(tmp_path, broken=True), hosts, resources, Told()).execute([Task("a")])
    assert Job(tmp_path).calls("a") == []


def test_a_worker_that_is_stuck_while_it_opens_is_replaced(run):
    outcome, told, job = run(Task("a"), opens="hang", opens_times=1, open_deadline_s=3.0)
    assert (outcome.failed, units(told.ended)) == ({}, ["a"])
    stuck, served = job.openers()
    assert job.calls("a") == [served]
    assert not _is_running(stuck)


@pytest.mark.parametrize(
    ("opens", "reason"), [("hang", r"not opened within 2 s \(compute.open_deadline_s\)"), ("die", "")]
)
def test_a_job_that_no_worker_can_open_ends_the_run_with_the_reason(run, opens, reason):
    with pytest.raises(RunError, match=f"acting: 2 workers in a row could not load what they need, .*{reason}"):
        run(Task("a"), opens=opens, open_deadline_s=2.0)


def test_a_worker_that_no_machine_has_room_for_is_said_and_not_waited_for_without_end(run, monkeypatch, tmp_path):
    monkeypatch.setattr(execute, "UNSCHEDULED_NOTICE_S", 0.5)
    wanted = r"1 of 1 workers wait for a machine with 64 CPU and 0 GPU free; of 2 CPU and 0 GPU in the cluster"
    with pytest.raises(RunError, match=f"{wanted} .*compute.cpus_per_worker"):
        run(Task("a"), cpus=64, open_deadline_s=3.0)


def test_a_lost_cluster_ends_the_loop(tmp_path: Path, hosts: Hosts):
    def lost() -> None:
        raise ClusterLostError("gone")

    resources = Resources(1, Size(0, 1), unit_deadline_s=600, attempts=3, lost_workers=0)
    with pytest.raises(ClusterLostError, match="gone"):
        Supervisor(Job(tmp_path), hosts, resources, Told(), lost).execute([Task("a")])


def test_the_next_job_runs_in_the_same_processes_unless_it_needs_more(run):
    first, again, larger = (run(Task(name), cpus=cpus)[2] for name, cpus in (("a", 1), ("b", 1), ("c", 2)))
    assert first.calls("a") == again.calls("b") != larger.calls("c")


def test_a_worker_that_was_given_up_does_not_serve_the_next_job(run):
    _, _, first = run(Task("dead", "die", times=1))
    _, _, again = run(Task("next"))
    killed, alive = first.calls("dead")
    assert killed != alive
    assert again.calls("next") == [alive]


def test_a_unit_that_failed_and_succeeds_later_in_the_run_has_not_failed(tmp_path: Path, committed):
    """As where everything is done once more because bundles were damaged."""
    run = Run(committed.settings("compute.attempts=2"), Progress(Console(quiet=True)))
    try:
        tasks = [Task("a", "raise", times=2), Task("b", "raise")]
        run._execute(Job(tmp_path), tasks, {})
        assert set(run.failed) == {"a", "b"}
        run._execute(Job(tmp_path), tasks, {})
        assert set(run.failed) == {"b"}
    finally:
        run.hosts.close()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
