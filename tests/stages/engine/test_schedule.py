"""The end of a schedule that is brought forward: a ramp down that fits the steps taken."""

import pytest

from stages.engine.schedule import Schedule


def test_the_rate_is_full_between_the_ramps():
    schedule = Schedule(steps=100, ramp_up=0.1, ramp_down=0.5)
    assert [step for step in range(100) if schedule.is_full(step)] == list(range(10, 50))
    assert not any(Schedule(steps=10, ramp_down=1).is_full(step) for step in range(10))
    assert all(Schedule(steps=10, ramp_up=0, ramp_down=0).is_full(step) for step in range(10))


def test_a_ramp_down_from_here_is_that_of_a_shorter_schedule():
    whole = Schedule(steps=100, learning_rate=0.2, ramp_up=0.1, ramp_down=0.25)
    ended = whole.ramped_down_from(30)
    assert ended == Schedule(steps=40, learning_rate=0.2, ramp_up=0.1, ramp_down=0.25)
    assert [ended.rate(step) for step in (10, 29, 30, 35)] == pytest.approx([0.2, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("ramp_down", [0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 1001])
def test_it_never_takes_more_steps_than_the_whole_nor_fewer_than_were_taken(steps, ramp_down):
    whole = Schedule(steps=steps, ramp_up=0, ramp_down=ramp_down)
    for taken in range(1, steps + 1):
        if whole.is_full(taken - 1):
            ended = whole.ramped_down_from(taken)
            assert taken <= ended.steps <= steps
            assert ended.traces(ended.steps - 1)
            if taken < ended.steps:
                assert ended.rate(taken) <= whole.rate(taken - 1)
