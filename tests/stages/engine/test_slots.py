"""Continuous batching: images come and go, and each is inverted as if it were alone.

At one width they are equal bit for bit. Between widths codes differ by up to 1e-8 in float64, and losses by up to
0.1 % in float32.
"""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.harness.descent import invert_all
from stages.engine.batch import Item
from stages.engine.result import Inversion, fate
from stages.engine.schedule import Schedule
from stages.engine.slots import Slots
from stages.objective.loss import Loss
from stages.objective.precision import Computed
from tests.stages.small_work import COUNT, Work


def work_in(precision: Computed, dtype: torch.dtype = torch.float32) -> tuple[Loss, list[Item]]:
    """Return the loss and the items, of 8 to 20 steps, no two schedules the same."""
    made = Work.make(dtype)
    schedules = [Schedule(steps=8 + 2 * i, learning_rate=0.05 + 0.01 * i) for i in range(COUNT)]
    return made.loss_in(precision), [made.item(i, schedules[i], precision) for i in range(COUNT)]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def work(request):
    return work_in("fp32", request.param)


def assert_equal(one: Inversion, other: Inversion, **tolerance: float) -> None:
    assert one.codes.deltas.keys() == other.codes.deltas.keys()
    pairs = [(one.codes.w_plus, other.codes.w_plus)]
    pairs += [(delta, other.codes.deltas[space]) for space, delta in one.codes.deltas.items()]
    pairs += [(terms, other.trace.terms[name]) for name, terms in one.trace.terms.items()]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} | tolerance))


def test_neighbours_slot_and_order_change_nothing_at_one_width(work):
    assert_equal_whatever_the_neighbours(*work)


def test_neighbours_change_nothing_in_half_precision_either():
    """Neighbours with deltas in a space have no image without one computed in full precision from there on."""
    assert_equal_whatever_the_neighbours(*work_in("bf16"))


def assert_equal_whatever_the_neighbours(loss: Loss, items: list[Item]) -> None:
    width = 3
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


def test_no_jobs_give_no_inversions(work):
    assert invert_all(work[0], [], 3) == []
