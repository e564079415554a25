"""The engine's thread: one batch for all callers, nothing lost when something fails, nothing left when it is done."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import pytest
import torch

from benchmarks.harness.descent import invert_all
from generators.latents import Codes
from stages.engine.batch import Item
from stages.engine.engine import Engine, in_turn
from stages.engine.schedule import Schedule
from stages.objective.objective import TERMS, Target
from stages.perceptual.distance import Features

PATIENCE_S = 20
STEPS = 20


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def item(goal: float, steps: int = STEPS, *, side: int = 1, rows: int = 1, layers: int = 1, delta: int = 0) -> Item:
    """Find the w_plus that is `goal`, which the target's pixels are; the rest are shapes."""
    image = torch.full((1, 3, side, side), goal)
    deltas = {"F4": torch.zeros(1, 2, delta, delta)} if delta else {}
    codes = Codes(torch.zeros(1, rows, 1), deltas, {space: one[:, :1] + 1 for space, one in deltas.items()})
    schedule = Schedule(steps=steps, learning_rate=1.0)
    return Item(Target(image, Features((image,) * layers, (1, 3, side, side), "")), codes, schedule, frozenset(deltas))


class Distance:
    """The loss: w_plus against the target. It can be held, broken, and looked at."""

    def __init__(self) -> None:
        self.goals: list[list[float]] = []
        self.go, self.broken = threading.Event(), False
        self.go.set()

    def __call__(self, codes: Codes, target: Target) -> torch.Tensor:
        assert self.go.wait(PATIENCE_S), "was never let go"
        goals = target.image[:, 0, 0, 0]
        self.goals.append(goals.tolist())
        if self.broken:
            raise RuntimeError("a kernel failed")
        error = (codes.w_plus[:, 0, 0] - goals).square()
        error = error + sum(delta.square().mean(dim=(1, 2, 3)) for delta in codes.deltas.values())
        return torch.cat([error[None], torch.zeros(len(TERMS) - 1, len(goals))])


def alone(goals: list[float], **settings) -> list[float]:
    items = [item(goal, **settings) for goal in goals]
    return [float(invert_all(Distance(), [one], 1)[0].codes.w_plus) for one in items]


def found(engine: Engine, goals: list[float], **settings) -> list[float]:
    futures = [engine.submit(partial(item, goal, **settings)) for goal in goals]
    return [float(one.codes.w_plus) for one in in_turn(futures)]


def test_images_of_several_callers_share_one_batch_and_each_gets_its_own():
    distance = Distance()
    engine = Engine(distance, 4)
    distance.go.clear()
    submitted = threading.Barrier(5)

    def call(number: int) -> list[float]:
        futures = [engine.submit(partial(item, goal)) for goal in (number + 0.25, number + 0.5)]
        submitted.wait(PATIENCE_S)
        return [float(one.codes.w_plus) for one in in_turn(futures)]

    with ThreadPoolExecutor(4) as callers:
        answers = [callers.submit(call, number) for number in range(4)]
        submitted.wait(PATIENCE_S)
        distance.go.set()
    for number, answer in enumerate(answers):
        assert answer.result() == alone([number + 0.25, number + 0.5])
    assert len(distance.goals) <= 3 * STEPS  # 8 images, 4 at a time: twice, and the first may be ahead


def test_no_slot_is_idle_while_an_image_waits():
    distance = Distance()
    engine = Engine(distance, 2)
    distance.go.clear()
    futures = [engine.submit(partial(item, 1.0 + n, steps=3 + n)) for n in range(5)]  # 3, 4, 5, 6, 7 steps
    distance.go.set()
    wait(futures)
    # slot 0: 3 + 5 + 7 steps, slot 1: 4 + 6; the first image may have begun a step alone
    assert len(distance.goals) in {15, 16}


def test_a_job_that_cannot_begin_fails_alone():
    engine = Engine(Distance(), 2)

    def bad() -> Item:
        raise ValueError("no such picture")

    before, failed, after = engine.submit(partial(item, 1.0)), engine.submit(bad), engine.submit(partial(item, 2.0))
    with pytest.raises(ValueError, match="no such picture"):
        failed.result()
    assert [float(one.result().codes.w_plus) for one in (before, after)] == alone([1.0, 2.0])


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({"side": 2}, "target"),
        ({"layers": 2}, "features"),
        ({"rows": 3}, "w_plus"),  # a code that would be broadcast unseen
        ({"delta": 3}, "delta of F4"),
    ],
)
@pytest.mark.parametrize("place", [1, 4])  # it comes with the first ones, or into a batch that is under way
def test_an_item_of_other_shapes_fails_alone(shapes, name, place):
    distance = Distance()
    engine = Engine(distance, 3)
    distance.go.clear()
    items = [partial(item, 1.0 + n, steps=4 + n, delta=2) for n in range(5)]
    odd = partial(item, 9.0, **{"delta": 2} | shapes)
    futures = [engine.submit(begin) for begin in (*items[:place], odd, *items[place:])]
    distance.go.set()
    with pytest.raises(ValueError, match=f"expected {name} .*, got .*; fit all images to one region"):
        futures.pop(place).result()
    wanted = invert_all(Distance(), [begin() for begin in items], 3)
    assert [float(one.result().codes.w_plus) for one in futures] == [float(one.codes.w_plus) for one in wanted]
    assert all(9.0 not in seen for seen in distance.goals)


def test_after_a_step_that_failed_the_batch_takes_items_of_other_shapes():
    distance = Distance()
    engine = Engine(distance, 1)
    distance.broken = True
    with pytest.raises(RuntimeError, match="a kernel failed"):
        engine.submit(partial(item, 1.0, side=2)).result()
    distance.broken = False
    assert found(engine, [3.0]) == alone([3.0])


def test_a_step_that_fails_fails_the_images_in_the_batch_and_the_next_ones_continue():
    distance = Distance()
    engine = Engine(distance, 2)
    distance.go.clear()
    distance.broken = True
    futures = [engine.submit(partial(item, 1.0)) for _ in range(4)]
    distance.go.set()
    for future in futures:
        with pytest.raises(RuntimeError, match="a kernel failed"):
            future.result()
    distance.broken = False
    assert found(engine, [3.0, 4.0, 5.0]) == alone([3.0, 4.0, 5.0])


def test_after_a_failure_nobody_waits_for_the_rest():
    distance = Distance()
    engine = Engine(distance, 1)
    distance.go.clear()

    def bad() -> Item:
        raise ValueError("no such picture")

    held = engine.submit(partial(item, 9.0))
    futures = [engine.submit(bad), *(engine.submit(partial(item, 1.0)) for _ in range(3))]
    distance.go.set()
    held.result()
    with pytest.raises(ValueError, match="no such picture"):
        list(in_turn(futures))
    assert all(future.done() or future.running() for future in futures)
    wait(futures)


def test_an_engine_that_nobody_holds_is_collected_with_its_loss():
    distance = Distance()
    engine = Engine(distance, 2)
    assert found(engine, [1.0, 2.0, 3.0]) == alone([1.0, 2.0, 3.0])
    gone = weakref.ref(distance)
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join()
    del engine, distance
    gc.collect()
    assert gone() is None


def test_an_engine_works_again_after_it_was_idle():
    engine = Engine(Distance(), 2)
    for goal in (1.0, 2.0, 3.0):
        assert found(engine, [goal]) == alone([goal])
