"""The number of steps of an image follows from its losses per window and its predicted error."""

import math

import pytest
import torch
from pydantic import ValidationError

from stages.engine.schedule import Schedule
from stages.engine.stopping import Budget, Finish, Watch


def stalls_at(losses: list[float], **settings) -> int | None:
    """Return at which loss the watch stalls; each is given in two terms."""
    watch = Watch(Finish(**settings))
    stalls = [watch.stalls(torch.tensor([0.25 * loss, 0.75 * loss])) for loss in losses]
    return stalls.index(True) if any(stalls) else None


def test_the_lowest_losses_of_two_windows_are_compared():
    losses = [10.0, 8.0, 9.0, 7.0, 7.5, 6.8]  # the lowest of two: 8, 7, 6.8
    assert stalls_at(losses, window=2, improvement=0.02) is None
    assert stalls_at(losses, window=2, improvement=0.05) == 5  # 7 to 6.8 is less than 5 %
    assert stalls_at(losses, window=2, improvement=0.2) == 3  # 8 to 7 is less than 20 %
    assert stalls_at(losses, window=3, improvement=0.2) == 5  # 8 to 6.8
    assert stalls_at(losses, window=4, improvement=0.2) is None  # there is no second window


def test_a_single_jump_stalls_nothing():
    assert stalls_at([8.0, 7.0, 50.0, 6.0, 5.0, 60.0], window=2, improvement=0.1) is None


def test_without_a_limit_only_a_loss_that_does_not_fall_stalls():
    assert stalls_at([4.0, 3.99999, 3.99998], window=1, improvement=0) is None
    assert stalls_at([4.0, 3.0, 3.0], window=1, improvement=0) == 2
    assert stalls_at([0.0, 0.0], window=1, improvement=0) == 1


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stalls(lost):
    assert stalls_at([lost] * 2, window=2, improvement=0.1) == 1
    assert stalls_at([4.0, 3.0, 2.0, lost, lost, lost], window=2, improvement=0.1) in {3, 5}


def test_steps_grow_with_the_predicted_error():
    budget, schedule = Budget(least=0.4, easy=0.1, hard=0.3), Schedule(steps=1000, learning_rate=0.3)
    errors = (0.0, 0.1, 0.15, 0.2, 0.3, 9.0)
    assert [budget.of(schedule, error).steps for error in errors] == [400, 400, 550, 700, 1000, 1000]
    assert budget.of(schedule, 0.2) == Schedule(steps=700, learning_rate=0.3)
    assert budget.of(Schedule(steps=1), 0.0).steps == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"least": 0}, "greater than 0"),
        ({"least": 1.1}, "less than or equal to 1"),
        ({"easy": -1}, "greater than or equal to 0"),
        ({"hard": 0.1}, "hard must be a larger error than easy, got 0.1 and 0.1"),
    ],
)
def test_a_budget_that_is_none_is_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Budget(**({"least": 0.4, "easy": 0.1, "hard": 0.3} | wrong))


@pytest.mark.parametrize("wrong", [{"window": 0}, {"improvement": 1}, {"improvement": -0.1}])
def test_a_finish_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError):
        Finish(**({"window": 5, "improvement": 0.1} | wrong))
