"""What is said at the end of a run: every reason once, with how many units it concerns and which."""

import io

import pytest
from rich.console import Console

from pipeline.cli_run import NAMED, print_failed


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


def test_nothing_is_said_where_nothing_failed(said):
    assert said({}) == []
