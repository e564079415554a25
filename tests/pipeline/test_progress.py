"""What a run shows of itself while it works."""

import io

from rich.console import Console

from pipeline.jobs import Done
from pipeline.progress import Progress


def shown(*done: Done, units: int) -> str:
    """Return what a console that is no terminal was told of one stage."""
    sink = io.StringIO()
    with Progress(Console(file=sink, width=120)).stage("invert", units, 8) as stage:
        for one in done:
            stage.done(one)
    return sink.getvalue()


def test_a_finished_stage_says_how_long_it_took():
    text = shown(Done("a", recorded=4, quarantined=0), Done("b", recorded=3, quarantined=1), units=2)
    assert "invert" in text
    assert "2/2" in text
    assert "images/s took 0:00:0" in text
    assert "ETA" not in text


def test_a_stage_that_was_left_says_what_was_missing():
    text = shown(Done("a", recorded=4, quarantined=0), units=2)
    assert "1/2" in text
    assert "ETA" in text


def test_a_warning_is_said_once_as_it_is():
    tight = "width [16] halved"
    text = shown(*(Done(name, recorded=4, quarantined=0, warnings=(tight, tight)) for name in "ab"), units=2)
    assert text.count(f"warning: {tight}") == 1
