"""How right maps are: sums that do not depend on how the samples come, and values worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.report.map_quality import Calibration, HeldOut, MapQuality, Moments, judge

LABELS_HW = np.array([[4, 4, 9, 9]])
ERRORS = arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 4, width=32))


def sample(predicted, achieved, occluded=None):
    occluded_HW = None if occluded is None else np.array([occluded])
    maps = (np.array(predicted, np.float32)[:, None], np.array(achieved, np.float32)[:, None])
    return HeldOut(*maps, LABELS_HW, occluded_HW)


def test_a_segment_counts_once_and_a_pixel_once():
    found = judge([sample([[0, 2, 2, 4]], [[1, 1, 3, 7]])], ["W+"])  # segments: 1, 3 against 1, 5
    assert found.segments == {"W+": 2}
    assert found.correlation_per_pixel == {"W+": pytest.approx(np.corrcoef([0, 2, 2, 4], [1, 1, 3, 7])[0, 1])}
    assert found.bias_per_segment == {"W+": pytest.approx((1 + 3) / 2 - (1 + 5) / 2)}
    assert found.calibration == {"W+": [(1.0, 1.0, 1), (3.0, 5.0, 1)]}


def test_each_space_is_judged_by_its_own_maps():
    both = [sample([[1, 1, 2, 2], [1, 1, 2, 2]], [[1, 1, 2, 2], [2, 2, 1, 1]])]
    found = judge([*both, *both], ["W+", "F4"])
    assert found.correlation_per_segment == {"W+": pytest.approx(1.0), "F4": pytest.approx(-1.0)}
    assert found.bias_per_segment == {"W+": 0.0, "F4": 0.0}
    assert found.calibration["F4"] == [(1.0, 2.0, 2), (2.0, 1.0, 2)]


def test_two_segments_have_no_correlation_since_any_two_points_lie_on_a_line():
    two = [sample([[1, 1, 2, 2]], [[1, 1, 2, 2]])]
    assert judge(two, ["W+"]).correlation_per_segment == {"W+": None}
    assert judge([*two, *two], ["W+"]).correlation_per_segment == {"W+": pytest.approx(1.0)}


def test_occluders_are_looked_for_in_the_maps_of_the_first_space():
    occluded = [True, False, True, False]
    worst, best = [0.1, 0.9, 0.2, 0.8], [0.9, 0.1, 0.8, 0.2]
    found = judge([sample([best, worst], [worst, best], occluded)], ["W+", "F4"])
    assert found.average_precision_predicted_map == 1.0
    assert found.average_precision_error_map == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert found.average_precision_chance == 0.5


def test_samples_without_an_occluder_are_judged_but_not_for_finding_one():
    with_one = sample([[0.9, 0.1, 0.1, 0.1]], [[0.9, 0.1, 0.1, 0.1]], [True, False, False, False])
    without = [replace(with_one, occluded_HW=None), replace(with_one, occluded_HW=np.zeros((1, 4), bool))]
    found = judge([with_one, *without], ["W+"])
    assert found.average_precision_chance == 0.25
    assert sum(count for _, _, count in found.calibration["W+"]) == 6
    assert judge(without, ["W+"]).average_precision_predicted_map is None


def test_of_nothing_nothing_is_known():
    assert judge([], ["W+", "F4"]) == MapQuality(
        correlation_per_pixel={"W+": None, "F4": None},
        correlation_per_segment={"W+": None, "F4": None},
        bias_per_segment={"W+": None, "F4": None},
        segments={"W+": 0, "F4": 0},
        calibration={"W+": [], "F4": []},
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.3])
def test_a_map_that_does_not_vary_has_no_correlation(constant):
    varied = np.linspace(0, 1, 7, dtype=np.float32)
    parts = [Moments.from_values(np.full(7, constant, np.float32), varied) for _ in range(9)]
    assert sum(parts, Moments()).correlation is None


@given(ERRORS, ERRORS)
def test_moments_of_parts_are_those_of_the_whole(x, y):
    size = min(x.size, y.size)
    x, y = x[:size], y[:size]
    whole, cut = Moments.from_values(x, y), size // 3
    parts = (
        Moments()
        + (Moments.from_values(x[:cut], y[:cut]) if cut else Moments())
        + Moments.from_values(x[cut:], y[cut:])
    )
    for name in ("count", "mean_x", "mean_y", "xx", "yy", "xy"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9)


def test_correlation_does_not_suffer_from_a_large_mean():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000)
    y = x + rng.standard_normal(1000)
    moved = sum(
        (Moments.from_values(1e5 + a, y_) for a, y_ in zip(np.split(x, 10), np.split(y, 10), strict=True)), Moments()
    )
    assert moved.correlation == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-6)


def calibration(*pairs):
    found = Calibration()
    for predicted, achieved in pairs:
        found.add(np.array(predicted, np.float32), np.array(achieved, np.float32))
    return found


def test_each_point_of_the_curve_stands_for_as_many_segments():
    predicted = np.linspace(0.01, 1.0, 40)
    curve = calibration((predicted, 2 * predicted)).curve(4)
    assert [count for _, _, count in curve] == [10] * 4
    assert [p for p, _, _ in curve] == pytest.approx(predicted.reshape(4, 10).mean(axis=1))
    assert [a for _, a, _ in curve] == pytest.approx(2 * predicted.reshape(4, 10).mean(axis=1))


def test_equal_predictions_are_one_point():
    assert calibration(([0.5] * 4, [0, 1, 2, 3])).curve() == [(0.5, 1.5, 4)]


@given(ERRORS, st.randoms(use_true_random=False))
def test_the_curve_does_not_depend_on_the_order_of_the_samples(predicted, random):
    pairs = [([p], [i % 5]) for i, p in enumerate(predicted)]
    shuffled = random.sample(pairs, len(pairs))
    one, other = calibration(*pairs), calibration(*shuffled)
    assert one.width == other.width
    np.testing.assert_allclose(one.sums_3B, other.sums_3B, rtol=1e-12)


@given(ERRORS)
def test_the_curve_ascends_and_leaves_no_segment_out(predicted):
    curve = calibration((predicted, predicted)).curve()
    assert sum(count for _, _, count in curve) == predicted.size
    assert [p for p, _, _ in curve] == sorted(p for p, _, _ in curve)
    assert all(p == pytest.approx(a) for p, a, _ in curve)
    assert len(curve) <= 10


def test_what_is_kept_does_not_grow_with_the_data():
    found = calibration(*(([0.001 * i, 2.0**i], [1, 1]) for i in range(12)))
    assert found.sums_3B.shape == calibration(([0.0], [0.0])).sums_3B.shape
    assert sum(count for _, _, count in found.curve()) == 24


def test_how_right_maps_are_is_json():
    found = judge([sample([[0, 2, 2, 4]], [[1, 1, 3, 7]])], ["W+"])
    assert json.loads(json.dumps(found.calibration)) == {"W+": [[1.0, 1.0, 1], [3.0, 5.0, 1]]}
