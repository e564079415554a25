"""What has to hold in a run's figures: worked by hand, and said where figures are read."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.report.checks import psnr_order
from pipeline.report.page import render_report
from pipeline.report.summary import Means, evaluate
from tests.pipeline.report_page import SUMMARY

SPACES = ("W+", "F4", "F6")
RISES, FALLS, TIES, PARTLY, NONE = (20.0, 22.5, 25.25), (20.0, 22.5, 21.0), (20.0, 20.0, 21.0), (20.0, None, 21.0), ()


def ordered(values):
    return dict(zip(SPACES, values, strict=False))


@pytest.mark.parametrize(
    ("values", "holds"),
    [(RISES, True), (FALLS, False), (TIES, False), (PARTLY, None), ((20.0,), None), (NONE, None)],
)
def test_psnr_has_to_rise_from_each_space_to_the_next(values, holds):
    assert psnr_order(ordered(values)).holds is holds


def rows(values):
    figures = {f"error_maps.psnr_db_{name}": v for name, v in zip(("w_plus", "f4", "f6"), values, strict=True)}
    return [{"role": "held_out", "outcome": "recorded", "invert.steps": 1001, **figures}]


def summary_of(values):
    figures = evaluate(Means([pa.Table.from_pylist(rows(values))]), SPACES)
    return replace(SUMMARY, spaces=SPACES, psnr_db=figures["psnr_db"], steps_sam=figures["steps_sam"])


@pytest.mark.parametrize(
    ("values", "holds", "verdict"),
    [(RISES, True, "holds"), (FALLS, False, "does not hold"), (PARTLY, None, None)],
)
def test_the_verdict_stands_in_summary_terminal_and_report(values, holds, verdict):
    summary = summary_of(values)
    written = json.loads(json.dumps(summary.as_json(), allow_nan=False))["checks"]["psnr_order"]
    assert (written["holds"], written["values"]) == (holds, ordered(values))
    said = dict(summary.headlines()).get("order of the spaces", "")
    page = render_report(title="r", summary=summary, timings=[], pictures=[], quarantine=[], settings="", about={})
    if verdict is None:
        assert not said
        assert 'class="check"' not in page
    else:
        assert said == f"{written['rule']}: {verdict}"
        assert f"{written['rule']}: {verdict}." in page


def test_steps_stand_next_to_what_they_bought():
    summary = summary_of(RISES)
    assert (summary.steps_single, summary.steps_sam) == (501, 1001)
    assert dict(summary.headlines())["steps, SAM"] == "1,001 steps, a space alone 501 steps"
    assert replace(summary, steps_sam=640.25).steps_of_both == "640.2 steps, a space alone 501 steps"
    assert replace(summary, steps_sam=None).steps_of_both == ""


def test_a_summary_holds_no_number_that_json_does_not_know():
    figures = {"W+": float("inf"), "F4": float("nan"), "F6": 30.0}
    summary = replace(SUMMARY, spaces=SPACES, psnr_db=figures, lpips_sam=float("-inf"))
    written = json.loads(json.dumps(summary.as_json(), allow_nan=False))
    assert written["lpips_sam"] is None
    assert written["psnr_db"] == {"W+": None, "F4": None, "F6": 30.0}
