"""Shares at other thresholds: exactly what assigning spaces at them would give, from maps that are committed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.data.units import Shard, Unit
from pipeline.tune.shares import Segments, rounded_below, rounded_up, spread, tune
from stages.maps.assignment import assign_spaces
from stages.refine_maps import RefineMaps
from tests import tiny
from tests.pipeline.conftest import contents

SHAPE = (3, 4, 5)
MAPS = st.lists(
    st.tuples(
        arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=16)),
        arrays(np.int32, SHAPE[1:], elements=st.integers(0, 3)),
    ),
    min_size=1,
    max_size=3,
)
PAIR = [(np.array([[[0.1, 0.1, 0.3, 0.5]], [[0.2, 0.2, 0.1, 0.2]]], np.float32), np.array([[7, 7, 1, 2]]))]


def assigned(maps, threshold):
    found = [np.bincount(assign_spaces(e, labels, threshold).ravel(), minlength=len(e)) for e, labels in maps]
    return np.sum(found, axis=0) / np.sum(found)


@pytest.mark.parametrize(
    ("threshold", "first"), [(0.0999, 0), (0.1, 0.5), (0.2999, 0.5), (0.3, 0.75), (0.4999, 0.75), (0.5, 1)]
)
def test_a_segment_changes_its_space_exactly_at_its_mean(threshold, first):
    assert Segments.from_maps(PAIR, 2).shares(threshold) == [first, 1 - first]


def test_a_space_that_is_worse_than_a_more_editable_one_gets_nothing_from_it():
    maps = [(np.array([[[0.2]], [[0.4]], [[0.1]]], np.float32), np.array([[0]]))]
    segments = Segments.from_maps(maps, 3)
    assert [segments.shares(t).index(1.0) for t in (0.1, 0.2, 0.4)] == [2, 0, 0]


@given(MAPS, st.floats(0, 1))
def test_shares_are_those_of_the_assignment(maps, threshold):
    segments = Segments.from_maps(maps, SHAPE[0])
    for tried in (threshold, *segments.grid()):
        np.testing.assert_allclose(segments.shares(tried), assigned(maps, tried), atol=1e-12)


@given(MAPS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_threshold_never_makes_fewer_pixels_editable(maps, one, other):
    segments = Segments.from_maps(maps, SHAPE[0])
    low, high = (np.cumsum(segments.shares(t)) for t in sorted((one, other)))
    assert (low <= high + 1e-12).all()


@given(MAPS)
def test_the_grid_ascends_to_where_everything_is_most_editable(maps):
    segments = Segments.from_maps(maps, SHAPE[0])
    grid = segments.grid()
    assert grid == sorted(set(grid))
    assert segments.shares(grid[-1]) == pytest.approx([1, 0, 0])


@given(st.floats(2.0**-20, 8, width=32))
def test_a_threshold_is_rounded_up_to_three_digits(value):
    rounded = rounded_up(value)
    assert np.float32(rounded) >= np.float32(value)
    assert rounded <= value * 1.0101
    assert rounded == float(f"{rounded:.3g}")


@given(st.floats(2.0**-20, 8, width=32))
def test_the_number_below_is_the_last_that_a_value_does_not_pass(value):
    below = rounded_below(value)
    assert 0 < below < value * 1.0000001
    assert np.float32(below) < np.float32(value)
    assert below >= value * 0.979


def test_thresholds_of_a_curve_are_evenly_spaced_in_the_area_that_is_most_editable():
    error_LHW = np.array([[[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]], [[0.05] * 8]], np.float32)
    segments = Segments.from_maps([(error_LHW, np.arange(8)[None])], 2)
    assert segments.evenly_editable(5) == [0.099, 0.2, 0.4, 0.6, 0.8]
    assert [segments.shares(t)[0] for t in segments.evenly_editable(5)] == [0, 0.25, 0.5, 0.75, 1]


@given(MAPS, st.integers(2, 9))
def test_the_thresholds_of_a_curve_differ_in_editable_area_and_reach_all_of_it(maps, count):
    segments = Segments.from_maps(maps, SHAPE[0])
    thresholds = segments.evenly_editable(count)
    area = [segments.shares(t)[0] for t in thresholds]
    assert area == sorted(set(area))
    assert len(area) <= count
    assert area[-1] == 1
    assert area[0] == 0 or segments.least_KS.min() == 0  # no threshold is below an error of 0


def test_thresholds_that_need_no_rounding_stay():
    assert [rounded_up(v) for v in (0.0, 0.225, float(np.float32(0.055)), 1.32, 0.9991)] == [0, 0.225, 0.055, 1.32, 1.0]


def test_one_space_alone_gets_everything():
    segments = Segments.from_maps([(np.ones((1, 2, 2), np.float32), np.zeros((2, 2), int))], 1)
    assert segments.grid() == segments.evenly_editable(8) == []
    assert segments.shares(0.1) == [1.0]


def units(*sizes):
    return [Unit(Shard(0, f"{i}.tar", "", size), 0, size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("count", "samples", "chosen", "of_each"),
    [(100, 3, 3, 1), (100, 160, 16, 10), (100, 400, 40, 10), (100, 9999, 100, 100), (2, 10, 2, 5), (0, 5, 0, 0)],
)
def test_samples_are_spread_over_the_units(count, samples, chosen, of_each):
    every = units(*[10] * count)
    found, number = spread(every, samples)
    assert (len(found), number) == (chosen, of_each)
    assert found == sorted(set(found), key=every.index)
    if chosen > 1:
        assert (found[0], found[-1]) == (every[0], every[-1])


def test_the_configured_threshold_has_the_shares_that_were_committed(committed):
    plan, index = committed.plan(), committed.index()
    refined = [record for unit in index.units for record in committed.records(index.steps[RefineMaps], unit).values()]
    found = tune(plan)
    (now,) = [row for row in found.grid if row.threshold == found.threshold == plan.config.refine_maps.threshold]
    assert (found.samples, found.committed) == (8, 8)
    for space in tiny.SPACES:
        name = f"share_{space.lower().replace('w+', 'w_plus')}"
        assert now.shares[space] == pytest.approx(np.mean([record.row[name] for record in refined]))


def test_fewer_samples_are_looked_at_if_wanted(committed):
    assert tune(committed.plan(), samples=3).samples == 3


def test_tuning_prints_a_row_for_each_threshold_and_touches_nothing(invertmill, committed):
    before = contents(committed.folder)
    code, output, errors = invertmill("tune", committed.folder / "run.yaml")
    rows = [line.split() for line in output.splitlines()]
    assert (code, errors) == (0, "")
    assert rows[0] == ["threshold", *tiny.SPACES]
    assert sum("*" in row for row in rows[1:-1]) == 1
    assert "over 8 of 8 samples" in output
    assert contents(committed.folder) == before


def test_tuning_is_also_json(invertmill, committed):
    code, output, _ = invertmill("tune", committed.folder / "run.yaml", "--json", "--samples", "2")
    found = json.loads(output)
    assert (code, found["samples"]) == (0, 2)
    assert [row["threshold"] for row in found["grid"]] == sorted(row["threshold"] for row in found["grid"])
    assert all(sum(row["shares"].values()) == pytest.approx(1) for row in found["grid"])


def test_without_refined_maps_tuning_says_what_comes_first(invertmill, committed):
    code, _, errors = invertmill("tune", committed.folder / "run.yaml", "--set", "refine_maps.threshold=0.7")
    assert code == 2
    assert "no maps are refined with threshold 0.7" in errors


def test_before_there_is_a_segmenter_tuning_says_what_comes_first(invertmill, fresh):
    code, _, errors = invertmill("tune", fresh.folder / "run.yaml")
    assert code == 2
    assert "`invertmill run` comes first" in errors
