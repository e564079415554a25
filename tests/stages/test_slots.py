"""Continuous batching: images come and go, and each is inverted as if it were alone.

At one width they are equal bit for bit. Between widths codes differ by up to 1e-8 in float64, and losses by up to
0.1 % in float32.
"""

import math
from dataclasses import replace

import pytest
import torch

from generators.latents import Codes
from generators.prior import estimate_prior
from generators.stylegan2 import StyleGAN2, StyleGAN2Config
from stages.batch import Item
from stages.descent import loss_of, separate, start_codes
from stages.inversion import Inversion, fate
from stages.objective import Objective, prepare_target
from stages.perceptual import Perceptual, SmallBackbone
from stages.region import Region
from stages.schedule import Schedule
from stages.slots import Slots, invert_all

REGION = Region(top=4, height=24, width=32)
OBJECTIVE = Objective(lambda_gaussian=1e-3)
COUNT = 7
"""Image 0 uses no feature space, 1 F2, 2 F4, 3 both, and so on."""


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def work(request):
    """The loss and the items, of 8 to 20 steps, no two schedules the same."""
    torch.manual_seed(1)
    config = StyleGAN2Config(z_dim=8, w_dim=8, img_resolution=32, channel_base=128, channel_max=8, mapping_layers=2)
    generator = StyleGAN2(config).to(request.param).requires_grad_(False).eval()
    heads = [torch.full((1, 4, 1, 1), 0.25)] * 2
    perceptual = Perceptual(SmallBackbone((4, 4)), heads, name="t", digest="t", min_side_px=2).to(request.param)
    prior = estimate_prior(generator, samples=100, shrinkage=0.01)
    numbers = torch.arange(COUNT)
    masks = {}
    for bit, space, side in ((1, "F2", 8), (2, "F4", 16)):
        used = (numbers & bit > 0).to(request.param)
        masks[space] = (torch.rand(COUNT, 1, side, side).to(request.param) > 0.3) * used[:, None, None, None]
    start = start_codes(generator, prior, masks, COUNT)
    start = Codes(start.w_plus.to(request.param), {s: d.to(request.param) for s, d in start.deltas.items()}, masks)
    images = torch.rand(COUNT, 3, 24, 32).to(request.param) * 2 - 1
    target = prepare_target(images, perceptual, OBJECTIVE)
    items = [
        Item(target[i], one, Schedule(steps=8 + 2 * i, learning_rate=0.05 + 0.01 * i), frozenset(one.deltas))
        for i, one in enumerate(separate(start))
    ]
    return loss_of(generator, perceptual, prior, OBJECTIVE, REGION), items


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
        """Adam's first step is as long as its rate: the loss is infinite behind 8 and not behind 4."""
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


def test_no_jobs_are_no_inversions(work):
    assert invert_all(work[0], [], 3) == []
