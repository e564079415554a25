"""Figures from rows: worked by hand."""

from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.report.summary import Means, StageTiming, evaluate
from stages.inversion.methods import Optimise
from tests.pipeline.report_page import SUMMARY

SPACES = ("W+", "F4")


def row(role, occluded, **values):
    return {"role": role, "outcome": "recorded", "error_maps.occluded": occluded, **values}


def test_a_mean_leaves_out_what_is_missing():
    rows = [{"outcome": "recorded", "role": None, "a": value} for value in (1.0, None, None, 3.0)]
    assert Means([pa.Table.from_pylist(rows)]).of("a", "recorded") == 2.0
    assert Means([pa.Table.from_pylist(rows)]).of("b", "recorded") is None


def test_a_mean_is_the_same_however_many_parts_the_rows_are_in():
    rows = [row("held_out", occluded=False, a=float(i)) for i in range(5)]
    parts = [pa.Table.from_pylist(rows[:1]), pa.Table.from_pylist(rows[1:])]
    assert Means(parts).of("a", "held_out") == 2.0
    assert Means(parts).counts["recorded"] == 5


def test_evaluation_looks_at_held_out_samples_only():
    rows = [
        row(
            "held_out", True, **{"error_maps.psnr_db_w_plus": 20.0, "invert.psnr_db": 30.0, "invert.share_w_plus": 0.5}
        ),
        row(
            "held_out", False, **{"error_maps.psnr_db_w_plus": 30.0, "invert.psnr_db": 32.0, "invert.share_w_plus": 1.0}
        ),
        row(
            "supervision",
            True,
            **{"error_maps.psnr_db_w_plus": 99.0, "invert.psnr_db": 99.0, "invert.share_w_plus": 0.0},
        ),
    ]
    figures = evaluate(Means([pa.Table.from_pylist(rows)]), SPACES)
    assert figures["psnr_db"] == {"W+": 25.0, "F4": None}
    assert figures["psnr_db_occluded"] == {"w_plus": 20.0, "sam": 30.0}
    assert figures["psnr_db_sam"] == 31.0
    assert figures["share_w_plus"] == 0.5
    assert figures["shares"]["W+"] == pytest.approx(0.5)


def test_quarantined_samples_do_not_count():
    table = pa.Table.from_pylist([{"role": "held_out", "outcome": "quarantined", "invert.psnr_db": 1.0}])
    assert evaluate(Means([table]), SPACES)["psnr_db_sam"] is None


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((20.0, 22.5, 25.25), "W+ 20.00 < F4 22.50 < F6 25.25 dB"),
        ((20.0, 22.5, 21.0), "W+ 20.00 < F4 22.50 > F6 21.00 dB"),
        ((20.0, None, 21.0), "W+ 20.00, F4 –, F6 21.00 dB"),
    ],
)
def test_the_printed_order_of_spaces_is_the_order_of_their_figures(figures, said):
    spaces = ("W+", "F4", "F6")
    summary = replace(SUMMARY, spaces=spaces, psnr_db=dict(zip(spaces, figures, strict=True)))
    assert dict(summary.headlines())["PSNR, held out"] == said


def test_map_quality_is_shown_next_to_the_other_figures():
    values = SUMMARY.as_json()
    assert "maps" not in values
    assert values["average_precision_predicted_map"] == SUMMARY.maps.average_precision_predicted_map
    assert values["calibration"]["W+"][0] == SUMMARY.maps.calibration["W+"][0]
    shown = dict(SUMMARY.headlines())
    assert shown["average precision, predicted map"] == "0.8449"
    assert shown["correlation per segment"] == "W+ 0.709, F4 0.807, F6 0.532, F8 0.407"
    assert shown["predicted minus achieved error"].startswith("W+ -0.0971, F4 -0.0144, F6 +0.0055")


def test_figures_that_are_not_known_are_not_printed():
    summary = replace(SUMMARY, auroc_error_map=None, psnr_db_occluded={"w_plus": None, "sam": None})
    shown = dict(summary.headlines())
    assert "PSNR where occluded" not in shown
    assert "AUROC, error map" not in shown


def test_the_method_is_named_with_the_seconds_of_a_worker_per_image():
    timing = StageTiming("invert", units=2, samples=8, seconds=3.0, worked_s=4.0)
    assert timing.seconds_per_image == 0.5
    assert StageTiming("invert", units=0, samples=0, seconds=0.0).seconds_per_image is None
    title = Optimise(spaces="W").title
    summary = replace(SUMMARY, method=title, seconds_per_image=timing.seconds_per_image)
    assert dict(summary.headlines())["method"] == "optimisation in W, 0.5 s of a worker per image"
    assert summary.as_json()["method"] == title
