"""The knee of a trade-off: known curves, and those that have none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tune.knee import LEAST_BEND, knee

KEPT = [0.0, 0.25, 0.5, 0.75, 1.0]
ELBOW = [30.0, 29.5, 29.0, 24.5, 20.0]  # two straight lines that meet at 0.5


def test_the_knee_of_two_straight_lines_is_where_they_meet():
    assert knee(KEPT, ELBOW) == 2


def test_the_knee_of_a_quarter_circle_is_its_middle():
    angles = [math.pi / 2 * i / 8 for i in range(9)]
    assert knee([math.sin(a) for a in angles], [math.cos(a) for a in angles]) == 4


def test_distances_are_worked_by_hand():
    # normalised (0.5, 0.9) and (0.8, 0.7) lie 0.4 and 0.5 above the chord
    assert knee([10, 60, 90, 110], [7.0, 6.9, 6.7, 6.0]) == 2


@pytest.mark.parametrize(
    ("kept", "gained"),
    [
        ([], []),
        ([0.5], [20.0]),
        ([0.0, 1.0], [30.0, 20.0]),
        (KEPT, [30.0, 27.5, 25.0, 22.5, 20.0]),  # straight
        (KEPT, [30.0, 25.0, 22.0, 21.0, 20.0]),  # hollow
        (KEPT, [20.0] * 5),
        (KEPT, ELBOW[::-1]),  # more of both: nothing is traded
        ([0.5] * 3, [20.0, 25.0, 30.0]),
        (KEPT, [math.inf, *ELBOW[1:]]),
    ],
)
def test_there_is_no_knee_where_a_curve_does_not_bend(kept, gained):
    assert knee(kept, gained) is None


def test_a_bend_has_a_least_size():
    def bent(by):
        return [1.0, 0.5 + by, 0.0]

    assert knee([0.0, 0.5, 1.0], bent(LEAST_BEND + 0.01)) == 1
    assert knee([0.0, 0.5, 1.0], bent(LEAST_BEND - 0.01)) is None


def test_a_gain_that_is_too_small_is_none():
    gained = [20 + (value - 20) / 100 for value in ELBOW]  # 0.1 from end to end
    assert knee(KEPT, gained, flat=0.09) == 2
    assert knee(KEPT, gained, flat=0.11) is None


@given(st.permutations(range(5)), st.floats(0.1, 10), st.floats(-50, 50), st.floats(0.1, 10), st.floats(-50, 50))
def test_units_and_order_do_not_matter(order, a, b, c, d):
    found = knee([a * KEPT[i] + b for i in order], [c * ELBOW[i] + d for i in order])
    assert found is not None
    assert order[found] == 2
