"""The learning rate over the steps of a schedule, and which of them are traced."""

import pytest
from pydantic import ValidationError

from stages.engine.schedule import TRACE_POINTS, Schedule


def test_the_rate_ramps_up_linearly_stays_and_ramps_down_along_a_cosine():
    schedule = Schedule(steps=100, learning_rate=0.2, ramp_up=0.1, ramp_down=0.5)
    assert [schedule.rate(step) for step in (0, 5, 10, 49, 75)] == pytest.approx([0, 0.1, 0.2, 0.2, 0.1])


def test_without_ramps_the_rate_is_full_at_every_step():
    schedule = Schedule(steps=10, learning_rate=0.2, ramp_up=0, ramp_down=0)
    assert {schedule.rate(step) for step in range(10)} == {0.2}


@pytest.mark.parametrize("betas", [(1, 0.999), (0.9, 1), (-0.1, 0.9), (0.9,)])
def test_means_that_forget_nothing_and_other_impossible_betas_are_refused(betas):
    with pytest.raises(ValidationError, match="betas"):
        Schedule(betas=betas)


def test_half_a_schedule_is_the_same_steps_at_half_the_rate():
    schedule = Schedule(steps=10, learning_rate=0.2)
    assert schedule.halved() == Schedule(steps=10, learning_rate=0.1)


@pytest.mark.parametrize("steps", [1, 7, 50, 1001])
def test_the_last_step_is_traced_and_about_as_many_as_there_are_points(steps):
    schedule = Schedule(steps=steps)
    traced = [step for step in range(steps) if schedule.traces(step)]
    assert traced[-1] == steps - 1
    assert min(steps, TRACE_POINTS) <= len(traced) <= TRACE_POINTS + 2
