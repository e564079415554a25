"""Shares of time, on a clock that the tests set."""

import pytest

from pipeline.jobs.shared_time import SharedTime


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_time_is_shared_equally_by_those_who_use_it_at_once_and_adds_up():
    clock = Clock()
    shared = SharedTime(clock)
    clock.now += 7  # nobody's
    with shared.use() as first_s:
        clock.now += 4
        with shared.use() as second_s:
            clock.now += 6
            second = second_s()
        clock.now += 1
        first = first_s()
    clock.now += 5  # nobody's
    with shared.use() as third_s:
        clock.now += 2
        third = third_s()
    assert (first, second, third) == (4 + 6 / 2 + 1, 6 / 2, 2)
    assert first + second + third == 4 + 6 + 1 + 2


def test_an_error_ends_the_use():
    clock = Clock()
    shared = SharedTime(clock)
    with pytest.raises(RuntimeError), shared.use():
        raise RuntimeError
    with shared.use() as share_s:
        clock.now += 3
        assert share_s() == 3
