"""An engine with too little memory: it continues at half the width, and no image is lost or done twice."""

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.harness.descent import invert_all
from generators.source import GeneratorSource
from stages.base.stage import Sample
from stages.engine.batch import Item
from stages.engine.engine import Engine, in_turn
from stages.engine.result import Inversion
from stages.engine.schedule import Schedule
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.inversion.viewer import Photograph
from stages.invert import Invert
from stages.maps.region import fit
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

PATIENCE_S = 20
COUNT = 7
STEPS = 6


class Room:
    """A loss for which memory suffices up to a width, or for some steps at any; it notes what it was called with."""

    def __init__(
        self, inverter: Inverter, fits: int, *, steps: int = 0, error: Callable[[], Exception] | None = None
    ) -> None:
        self.loss, self.fits, self.steps = inverter.loss(), fits, steps
        self.error = error or partial(torch.OutOfMemoryError, "tried to allocate 2 GiB")
        self.widths: list[int] = []
        self.given_up: list[weakref.ref[torch.Tensor]] = []  # what batches that did not fit held, and had computed
        self.go = threading.Event()

    def __call__(self, codes, target):
        assert self.go.wait(PATIENCE_S), "was never let go"
        self.widths.append(len(target.image))
        terms = self.loss(codes, target)
        if len(target.image) > self.fits and len(self.widths) > self.steps:
            self.given_up += [weakref.ref(target.image), weakref.ref(terms)]
            raise self.error()
        return terms


@pytest.fixture(scope="module")
def inverter(tmp_path_factory) -> Inverter:
    networks = tiny.write_networks(tmp_path_factory.mktemp("networks"))
    stage = Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3),
        schedule=Schedule(steps=STEPS, learning_rate=0.1),
    )
    return stage.inverter(torch.device("cpu"))


@pytest.fixture(scope="module")
def begins(inverter):
    """Images with stripes of their own in W+, F2 and F4."""

    def begin(number: int) -> Item:
        image = fit(pixels_of(Sample(str(number), "shard", {"png": tiny.picture(number)})), inverter.region)
        assignment_HW = np.roll(np.arange(tiny.SIDE_PX) * 3 // tiny.SIDE_PX, number).astype(np.uint8)
        masks = inverter.masks(np.tile(assignment_HW, (1, tiny.SIDE_PX, 1)))
        return inverter.item(Photograph(image, image), masks)

    return [partial(begin, number) for number in range(COUNT)]


def assert_equal(one: Inversion, other: Inversion) -> None:
    assert torch.equal(one.codes.w_plus, other.codes.w_plus)
    assert one.codes.deltas.keys() == other.codes.deltas.keys()
    assert all(torch.equal(delta, other.codes.deltas[space]) for space, delta in one.codes.deltas.items())
    assert torch.equal(one.trace.terms["total"], other.trace.terms["total"])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError,  # it says nothing more
        partial(
            RuntimeError, "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=["device", "machine"],
)
def test_every_image_is_what_an_engine_of_the_smaller_width_makes_of_it(inverter, begins, error, caplog):
    room = Room(inverter, fits=2, error=error)
    engine = Engine(room, 8)
    with caplog.at_level(logging.WARNING, "stages.engine.engine"):
        futures = [engine.submit(begin) for begin in begins]
        room.go.set()
        found = list(in_turn(futures))
    for one, other in zip(found, invert_all(inverter.loss(), [begin() for begin in begins], 2), strict=True):
        assert_equal(one, other)
    assert room.widths[:2] == [8, 4]
    assert set(room.widths[2:]) == {2}
    assert len(room.widths[2:]) <= STEPS * (COUNT // 2 + 1)  # none is done twice
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in messages] == [
        "no memory for 8 images at once, continuing with 4",
        "no memory for 4 images at once, continuing with 2",
    ]


def test_the_batch_and_what_its_step_allocated_are_gone_when_the_allocator_gives_back(inverter, begins, monkeypatch):
    room = Room(inverter, fits=1)
    alive = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: alive.append(sum(one() is not None for one in room.given_up)))
    engine = Engine(room, 4)
    futures = [engine.submit(begin) for begin in begins[:3]]
    room.go.set()
    list(in_turn(futures))
    assert len(room.given_up) == 4
    assert alive == [0, 0]


def test_images_in_flight_begin_again_before_those_that_wait_and_finished_ones_do_not(inverter, begins):
    order = []

    def noted(number: int) -> Item:
        order.append(number)
        item = begins[number]()
        return replace(item, schedule=Schedule(steps=steps[number]))

    steps = (1, 6, 1, 4, 3)
    room = Room(inverter, fits=1, steps=3)
    engine = Engine(room, 2)
    begun = threading.Event()

    def first() -> Item:  # the others are submitted before it enters
        assert begun.wait(PATIENCE_S)
        return noted(0)

    futures = [engine.submit(first), *(engine.submit(partial(noted, number)) for number in range(1, 5))]
    begun.set()
    room.go.set()
    found = list(in_turn(futures))
    assert order == [0, 1, 2, 3, 1, 3, 4]  # in the step that fails, 3 is in the first slot and 1 still in the second
    assert tuple(len(one.trace.steps) for one in found) == steps


def test_memory_that_does_not_suffice_to_begin_an_image_is_not_that_images_fault(inverter, begins):
    tried = []

    def greedy(number: int) -> Item:
        tried.append(number)
        if number == 4 and tried.count(4) == 1:
            raise torch.OutOfMemoryError("tried to allocate the features")
        return begins[number]()

    room = Room(inverter, fits=2)
    room.go.set()
    engine = Engine(room, 2)
    found = list(in_turn([engine.submit(partial(greedy, number)) for number in range(COUNT)]))
    assert len(found) == COUNT
    assert set(room.widths) == {1, 2}
    for one, other in zip(found[4:], invert_all(inverter.loss(), [begin() for begin in begins[4:]], 1), strict=True):
        assert_equal(one, other)


def test_where_one_image_does_not_fit_it_fails_with_what_to_do_and_the_engine_continues(inverter, begins, caplog):
    room = Room(inverter, fits=0)
    room.go.set()
    engine = Engine(room, 2)
    futures = [engine.submit(begin) for begin in begins[:3]]
    advice = r"memory is too small for one image: lower objective.side_px, .*; tried to allocate 2 GiB"
    for future in futures:
        with pytest.raises(torch.OutOfMemoryError, match=advice):
            future.result()
    assert len(caplog.records) == 1
    room.fits = 1
    assert_equal(engine.submit(begins[0]).result(), invert_all(inverter.loss(), [begins[0]()], 1)[0])


def test_an_image_that_was_cancelled_while_it_waited_is_not_begun(inverter, begins):
    room = Room(inverter, fits=1)
    engine = Engine(room, 2)
    futures = [engine.submit(begin) for begin in begins]
    futures[-1].cancel()
    room.go.set()
    assert len(list(in_turn(futures[:-1]))) == COUNT - 1
    with pytest.raises(CancelledError):
        futures[-1].result()
    assert len(room.widths) <= 1 + STEPS * (COUNT - 1)
