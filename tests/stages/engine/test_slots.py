"""Continuous batching: images come and go, and each is inverted as if it were alone.

At one width they are equal bit for bit. Between widths codes differ by up to 1e-8 in float64, and losses by up to
0.1 % in float32.
"""

import math
from dataclasses import replace

import pytest
import torch

from stages.engine.batch import Item
from stages.engine.result import Inversion, fate
from stages.engine.schedule import Schedule
from stages.engine.slots import Slots, invert_all
from stages.engine.stopping import Finish
from tests.stages.small_work import COUNT, Work


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def work(request):
    """The loss and the items, of 8 to 20 steps, no two schedules the same."""
    made = Work.make(request.param)
    return made.loss, [made.item(i, Schedule(steps=8 + 2 * i, learning_rate=0.05 + 0.01 * i)) for i in range(COUNT)]


def assert_equal(one: Inversion, other: Inversion, **tolerance: float) -> None:
    assert one.codes.deltas.keys() == other.codes.deltas.keys()
    pairs = [(one.codes.w_plus, other.codes.w_plus)]
    pairs += [(delta, other.codes.deltas[space]) for space, delta in one.codes.deltas.items()]
    pairs += [(terms, other.trace.terms[name]) for name, terms in one.trace.terms.items()]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} | tolerance))


def test_neighbours_slot_and_order_change_nothing_at_one_width(work):
    (loss, items), width = work, 3
    alone = [invert_all(loss, [item], width)[0] for item in items]
    for order in (range(COUNT), reversed(range(COUNT)), (3, 0, 5, 1, 6, 2, 4)):
        numbers = list(order)
        for number, found in zip(numbers, invert_all(loss, [items[n] for n in numbers], width), strict=True):
            assert_equal(found, alone[number])


def test_at_another_width_only_rounding_changes(work):
    loss, items = work
    double = items[0].start.w_plus.dtype == torch.float64
    for one, other in zip(invert_all(loss, items, 1), invert_all(loss, items, COUNT), strict=True):
        if double:
            assert_equal(one, other, atol=1e-8, rtol=1e-9)
        # an element with hardly any gradient may take Adam's sign either way
        torch.testing.assert_close(one.trace.terms["total"], other.trace.terms["total"], rtol=1e-3, atol=0)


def test_the_next_image_enters_in_the_step_after_one_has_left(work):
    loss, items = work
    slots = Slots(loss, 2)
    slots.enter(items[:2])  # of 8 and 10 steps
    steps = [slots.step() for _ in range(8)]
    assert [list(left) for left in steps] == [[]] * 7 + [[0]]
    assert slots.idle == [0]
    assert slots.enter(items[3:4]) == [0]  # of 14
    left = [list(slots.step()) for _ in range(14)]
    assert [slots_left for slots_left in left if slots_left] == [[1], [0]]
    assert (left[1], left[13], slots.idle) == ([1], [0], [0, 1])


def test_an_image_that_diverges_begins_again_at_half_the_rate(work):
    loss, items = work
    wild = replace(items[1], schedule=Schedule(steps=2, learning_rate=8.0, ramp_up=0, ramp_down=0))
    begun = []

    def watched(codes, target):
        """Adam's first step is as long as its rate: the loss is infinite beyond 8 and not beyond 4."""
        begun.append(torch.equal(codes.w_plus[1:2], wild.start.w_plus))
        far_N = (codes.w_plus - wild.start.w_plus).abs().amax(dim=(1, 2)) > 6
        return torch.where(far_N, math.inf, loss(codes, target))

    calm, found = invert_all(watched, [items[0], wild], 2)
    assert [step for step, anew in enumerate(begun) if anew] == [0, 2]
    assert len(begun) == items[0].schedule.steps
    assert not calm.diverged.item()
    assert not found.diverged.item()
    assert_equal(found, invert_all(loss, [replace(wild, schedule=wild.schedule.halved())], 2)[0])


def test_an_image_that_diverges_twice_tells_its_loss_and_spares_its_neighbours(work):
    loss, items = work
    broken = items[3].target.image.clone()
    broken[0, 0, 0, 0] = math.nan
    bad = replace(items[3], target=replace(items[3].target, image=broken))
    rest = [*items[:3], *items[4:]]
    with_bad = invert_all(loss, [*items[:3], bad, *items[4:]], 3)
    for one, other in zip([*with_bad[:3], *with_bad[4:]], invert_all(loss, rest, 3), strict=True):
        assert_equal(one, other)
    found = with_bad[3]
    assert found.diverged.item()
    assert torch.equal(found.codes.w_plus, bad.start.w_plus)
    assert "again at half the learning rate (loss never finite)" in fate(found)


def finishing(item: Item, improvement: float = 0.99, **schedule) -> Item:
    """Return an item that finishes; at 99 %, once it has been at the full rate for two windows of 2 steps."""
    settings = {"steps": 40, "learning_rate": 0.05, "ramp_up": 0, "ramp_down": 0.5}
    finish = Finish(window=2, improvement=improvement)
    return replace(item, schedule=Schedule(**(settings | schedule)), finish=finish)


@pytest.mark.parametrize(("ramp_up", "ramp_down", "steps"), [(0, 0.5, 8), (0, 0, 5), (0.25, 0.5, 28), (0, 0.95, 40)])
def test_an_image_whose_loss_no_longer_falls_ramps_down_and_leaves(work, ramp_up, ramp_down, steps):
    loss, items = work
    item = finishing(items[3], ramp_up=ramp_up, ramp_down=ramp_down)
    (found,) = invert_all(loss, [item], 1)
    assert found.trace.steps.tolist() == list(range(steps))  # 4, or 10 and 4, at the full rate, then the ramp down
    assert {len(terms) for terms in found.trace.terms.values()} == {steps}
    if not ramp_up:  # it is a shorter schedule from beginning to end
        shorter = replace(item, schedule=item.schedule.model_copy(update={"steps": steps}), finish=None)
        assert_equal(found, invert_all(loss, [shorter], 1)[0])


def test_an_image_that_keeps_improving_takes_every_step(work):
    loss, items = work
    (found,) = invert_all(loss, [finishing(items[3], improvement=0, learning_rate=0.002)], 1)
    assert_equal(found, invert_all(loss, [replace(finishing(items[3], learning_rate=0.002), finish=None)], 1)[0])
    assert len(found.trace.steps) == 40


def test_when_an_image_finishes_depends_on_its_own_losses_alone(work):
    (loss, items), width = work, 3
    rates = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    those = [finishing(i, 0.03, learning_rate=rate) for i, rate in zip(items, rates, strict=True)]
    alone = [invert_all(loss, [item], width)[0] for item in those]
    assert len({len(one.trace.steps) for one in alone}) > 2
    for order in (range(COUNT), (3, 0, 5, 1, 6, 2, 4)):
        numbers = list(order)
        for number, found in zip(numbers, invert_all(loss, [those[n] for n in numbers], width), strict=True):
            assert torch.equal(found.trace.steps, alone[number].trace.steps)
            assert_equal(found, alone[number])


def test_an_image_that_diverges_while_it_finishes_begins_again_with_a_whole_schedule(work):
    loss, items = work
    item = finishing(items[1])
    calls = []

    def once_infinite(codes, target):
        calls.append(len(calls))
        return loss(codes, target) * (math.inf if calls[-1] == 7 else 1)  # in the last of 8 steps

    (found,) = invert_all(once_infinite, [item], 1)
    assert len(calls) == 16
    assert not found.diverged.item()
    assert_equal(found, invert_all(loss, [replace(item, schedule=item.schedule.halved())], 1)[0])


def test_an_image_that_has_diverged_does_not_take_all_its_steps_before_it_begins_again(work):
    loss, items = work
    calls = []

    def never_finite(codes, target):
        calls.append(len(calls))
        return loss(codes, target) * math.nan

    (found,) = invert_all(never_finite, [finishing(items[1], improvement=0.01)], 1)
    assert found.diverged.item()
    assert len(calls) == 2 * 4  # a window of 2, and as many to ramp down


def test_no_jobs_give_no_inversions(work):
    assert invert_all(work[0], [], 3) == []
