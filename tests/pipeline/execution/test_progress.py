"""What a run shows of itself while it works, on a terminal and in a log."""

import io
import re
import time
from dataclasses import replace

from rich.console import Console

from infra.stores.waiting import Waiting
from pipeline.execution.hosts import as_progress
from pipeline.execution.progress import NOTICE_S, Progress
from pipeline.jobs.job import UnitResult
from stages.base.progress import WorkProgress


def two() -> tuple[UnitResult, UnitResult]:
    return UnitResult("a", recorded=4, quarantined=0), UnitResult("b", recorded=3, quarantined=1)


def shown(*done: UnitResult, units: int, terminal: bool = False) -> str:
    """Return what a console was told of one stage."""
    sink = io.StringIO()
    with Progress(Console(file=sink, width=120, force_terminal=terminal)).stage("invert", units, 8) as stage:
        for one in done:
            stage.done(one)
    return sink.getvalue()


def test_a_finished_stage_says_how_long_it_took_on_a_terminal():
    text = shown(*two(), units=2, terminal=True)
    last = text.rpartition("invert")[2]
    assert "2/2" in last
    assert "took" in last
    assert "0:00:0" in last
    assert "ETA" not in last


def test_a_stage_that_was_left_says_what_was_missing_on_a_terminal():
    last = shown(two()[0], units=2, terminal=True).rpartition("invert")[2]
    assert "1/2" in last
    assert "ETA" in last


def test_a_log_has_a_line_with_the_time_where_a_stage_begins_and_where_it_ends():
    begun, ended = shown(*two(), units=2).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d invert: 2 units, 8 samples", begun)
    assert re.fullmatch(r"\d\d:\d\d:\d\d invert: 2 of 2 units, [\d.]+ images/s, took 0:00:0\d", ended)


def test_a_log_says_what_was_missing_of_a_stage_that_was_left():
    assert re.search(r" invert: 1 of 2 units, [\d.]+ images/s, ETA 0:00:0\d\n$", shown(two()[0], units=2))


def test_a_log_is_never_silent_for_longer_than_agreed():
    assert NOTICE_S <= 30
    sink = io.StringIO()
    progress = Progress(Console(file=sink, width=120), notice_s=0.05)
    with progress.stage("train_segmenter", 1, 0) as stage:
        stage.reached("worker", [WorkProgress("steps", 30, 120, "epoch 1 of 4")])
        _until(lambda: sink.getvalue().count("steps 30 of 120, epoch 1 of 4") > 2)
    with progress.doing("writing the report"):
        _until(lambda: "still writing the report, 0:00:0" in sink.getvalue())
    with progress.doing("verifying every file") as reached:
        reached("3 of 7 shards")
        _until(lambda: "still verifying every file, 3 of 7 shards, 0:00:0" in sink.getvalue())
    assert "ETA" in sink.getvalue()


def test_progress_inside_a_unit_counts_as_its_share_and_never_as_more():
    with Progress(Console(quiet=True)).stage("invert", 4, 8) as stage:
        assert stage.share == 0
        stage.reached("one", [WorkProgress("steps", 25, 100)])
        stage.reached("other", [WorkProgress("steps", 75, 100), WorkProgress("draws", 1, 10)])
        assert stage.share == (0.25 + 0.75) / 4
        assert stage.details() == "steps 100 of 200, draws 1 of 10"
        for name in "abcd":
            stage.done(UnitResult(name, 2, 0))
        assert stage.share == 1


def test_a_line_can_be_made_while_workers_are_added():
    class Growing(WorkProgress):
        @property
        def share(self) -> float:
            stage.reached(f"worker {len(stage._at_work)}", [WorkProgress("steps", 1, 4)])  # as the loop's thread does
            return super().share

    with Progress(Console(quiet=True)).stage("invert", 8, 8) as stage:
        stage.reached("one", [Growing("steps", 1, 4)])
        stage.reached("two", [Growing("steps", 1, 4)])
        assert "steps 4 of 16" in stage.line()


def test_a_warning_is_said_once_as_it_is():
    tight = "width [16] halved"
    warned = [UnitResult(name, recorded=4, quarantined=0, warnings=(tight, tight)) for name in "ab"]
    for terminal in (False, True):
        assert shown(*warned, units=2, terminal=terminal).count(f"{tight}") == 1


def _until(condition, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_is_waited_for_is_said_once_and_moves_no_bar():
    sink = io.StringIO()
    progress = Progress(Console(file=sink, width=200))
    wait = Waiting("http://store", "nobody answers", 3.0, 3600)
    with progress.stage("invert", 2, 0) as stage:
        stage.reached("worker", [as_progress(wait), WorkProgress("steps", 1, 4)])
        stage.reached("worker", [as_progress(replace(wait, waited_s=1800.0))])
        assert stage.share == 0
        assert "s waited for http://store 1800 of 3600" in stage.line()
    assert sink.getvalue().count("cannot reach http://store: nobody answers; trying again for up to 60 min") == 1
    for _ in range(3):
        progress.waits(wait)
    progress.waits(replace(wait, over=True))
    progress.waits(wait)
    assert sink.getvalue().count("cannot reach http://store") == 3
