"""Progress of inversions: steps of a unit's images, which only grow, whatever else is in the batch."""

import threading
from functools import partial
from statistics import fmean

import pytest
import torch

from generators.source import GeneratorSource
from stages.base.progress import WorkProgress, listening
from stages.base.stage import Sample
from stages.engine.batch import Item
from stages.engine.engine import Engine
from stages.engine.schedule import Schedule
from stages.engine.tally import Steps, Tally
from stages.error_maps import ErrorMaps
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny
from tests.stages.engine.test_engine import Distance, item


def heard(work) -> list[WorkProgress]:
    said: list[WorkProgress] = []
    with listening(said.append):
        work()
    return said


def invert(engine: Engine, *steps: int) -> None:
    """Invert images with these numbers of steps; the first begins when all are submitted: the batch stays full."""
    submitted = threading.Event()

    def begin(steps: int) -> Item:
        assert submitted.wait(60)
        return item(1.0, steps)

    futures = [engine.submit(partial(begin, one)) for one in steps]
    submitted.set()
    for future in futures:
        future.result()


def test_an_engine_that_expects_nothing_says_nothing():
    assert heard(lambda: invert(Engine(Distance(), 2), 4, 4)) == []


@pytest.mark.parametrize("width", [1, 2, 5])
def test_steps_of_all_images_of_a_unit_are_counted_to_the_end(width):
    engine = Engine(Distance(), width)
    engine.expect(5)
    said = heard(lambda: invert(engine, *[4] * 5))
    assert [one.done for one in said] == sorted(one.done for one in said)
    assert (said[0].done, said[-1].done, said[-1].total, said[-1].what) == (min(width, 5), 20, 20, "steps")


def test_an_image_with_fewer_steps_counts_as_a_whole_one():
    engine = Engine(Distance(), 2)
    engine.expect(2)
    said = heard(lambda: invert(engine, 8, 4))
    assert [one.share for one in said] == pytest.approx([fmean((i / 8, min(1, i / 4))) for i in range(1, 9)], abs=0.05)


def test_what_is_left_of_the_unit_before_is_not_counted_for_the_next():
    tally, before = Tally(), Steps(1, whole=10)
    tally.begin(2)
    after = Steps(2, whole=10)
    tally.begin(4)
    (said,) = heard(lambda: tally.report([before, after]))
    assert (said.done, said.total) == (1, 40)
    tally.left(before)
    tally.left(after)
    (said,) = heard(lambda: tally.report([Steps(2, whole=10)]))
    assert said.done == 11


def test_a_stage_says_the_steps_of_every_image_in_every_space(tmp_path):
    networks = tiny.write_networks(tmp_path)
    stage = ErrorMaps(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        objective=Objective(shrinkage=1e-3),
        schedule=Schedule(steps=3),
        batch=4,
    )
    worker = stage.setup(torch.device("cpu"))
    samples = [Sample(str(i), "shard", {"png": tiny.picture(i)}) for i in range(4)]
    said = heard(lambda: list(worker(samples)))
    assert (said[-1].done, said[-1].total) == (4 * len(tiny.SPACES) * 3,) * 2
