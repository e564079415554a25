"""Figures from rows: worked by hand."""

import pytest

from pipeline.summary import busy_seconds, evaluate, mean_of

SPACES = ("W+", "F4")


def row(role, occluded, **values):
    return {"role": role, "outcome": "recorded", "error_maps.occluded": occluded, **values}


def test_overlapping_work_counts_once_and_pauses_do_not():
    assert busy_seconds([(0, 2), (1, 3), (10, 11), (10.5, 10.8)]) == 4
    assert busy_seconds([]) == 0


def test_a_mean_leaves_out_what_is_missing():
    assert mean_of([{"a": 1.0}, {"a": None}, {}, {"a": 3.0}], "a") == 2.0
    assert mean_of([{}], "a") is None


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
    figures = evaluate(rows, SPACES)
    assert figures["psnr_db"] == {"W+": 25.0, "F4": None}
    assert figures["psnr_db_occluded"] == {"w_plus": 20.0, "sam": 30.0}
    assert figures["psnr_db_sam"] == 31.0
    assert figures["share_w_plus"] == 0.5
    assert figures["shares"]["W+"] == pytest.approx(0.5)


def test_quarantined_samples_do_not_count():
    assert evaluate([{"role": "held_out", "outcome": "quarantined"}], SPACES)["psnr_db_sam"] is None
