"""What is said at the end of a run: every reason once, with how many units it concerns and which."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.cli.run import KINDS, NAMED, print_end, print_failed
from pipeline.execution.run import RunResult


@pytest.fixture
def said():
    """Return a function that prints failed units and gives the lines."""

    def print_all(failed: dict[str, str]) -> list[str]:
        sink = io.StringIO()
        print_failed(Console(file=sink, width=80), failed)
        return sink.getvalue().splitlines()

    return print_all


def test_reasons_are_counted_and_the_most_frequent_comes_first(said):
    failed = {"a": "invert: [disk] full", "b": "inventory: OSError: 5", "c": "inventory: OSError: 5"}
    assert said(failed) == ["failed 2 units: inventory: OSError: 5 (b, c)", "failed 1 unit: invert: [disk] full (a)"]


def test_of_many_units_some_are_named(said):
    (line,) = said({f"unit-{i:02d}": "inventory: gone" for i in range(NAMED + 7)})
    assert line.startswith("failed 17 units: inventory: gone (unit-00, unit-01, ")
    assert line.endswith("unit-09 and 7 more)")


def test_reasons_that_differ_in_names_and_numbers_are_one_line(said):
    failed = {f"{i:06d}-ab": f"inventory: timed out after {i} s at s3://mill/{i:06d}.tar" for i in range(300)}
    (line,) = said(failed)
    assert line.startswith(
        "failed 300 units: for reasons like the first one's: inventory: timed out after 0 s at s3://"
    )


def test_of_many_kinds_of_reasons_the_most_frequent_are_printed(said):
    failed = {f"unit {i}": "invert: " + "x" * i for i in range(KINDS + 3)} | {"last": "invert: x"}
    lines = said(failed)
    assert len(lines) == KINDS + 1
    assert lines[0].startswith("failed 2 units: invert: x (unit 1, last)")
    assert lines[-1] == "failed 3 others, for 3 other reasons"


def test_a_result_with_gaps_is_not_all_done_though_nothing_failed(committed):
    """As where another run took a shard's inventory away to read it again."""
    plan = committed.plan()
    committed.file("receipts/invert/*/train-a*.json").unlink()
    index = committed.index()
    shards = plan.inventories()
    finished = RunResult(plan, shards, index, index.commit(), {}, 0, gaps=index.gaps())
    sink = io.StringIO()
    assert print_end(Console(file=sink, width=80), finished) is False
    assert "gaps: 1 units of invert, 4 samples are missing\nrun again to complete it" in sink.getvalue()
    assert print_end(Console(quiet=True), replace(finished, gaps={})) is True


def test_nothing_is_said_where_nothing_failed(said):
    assert said({}) == []
