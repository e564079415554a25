"""Maps smaller than the region, and fewer spaces than the generator has: from error maps to figures and pictures."""

import numpy as np
import pytest
import torch

from pipeline.data.records import read_records
from pipeline.errors import ConfigError
from pipeline.execution.run import RunResult
from pipeline.report.conclude import conclude
from pipeline.training.committed_examples import CommittedExamples, Supervision
from pipeline.tune.shares import tune
from stages.invert import Invert
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from tests import tiny
from tests.pipeline.conftest import commit_all

SIDE = 16
SPACES = ("W+", "F4")
SETTINGS = (f"maps.side_px={SIDE}", "spaces=[W+, F4]")


@pytest.fixture
def small(fresh):
    """A run whose maps have half the size of its region, in two of the three spaces."""
    plan = fresh.plan(*SETTINGS)
    threads = torch.get_num_threads()
    commit_all(plan)
    torch.set_num_threads(threads)
    return plan


def arrays(plan, step) -> list[dict[str, np.ndarray]]:
    receipts = plan.ledger.receipts(step.stage.name, step.fingerprint)
    return [record.arrays for receipt in receipts for record in read_records(plan.ledger.read_file, receipt).values()]


def test_a_whole_run_follows_the_size_of_maps_and_the_spaces(small, fresh):
    steps = small.map_steps(small.ledger.receipt(small.train_segmenter()))
    for step in (small.error_maps(), steps[PredictMaps]):
        found = arrays(small, step)
        assert len(found) == 8
        assert {one["error_LHW"].shape for one in found} == {(len(SPACES), SIDE, SIDE)}
    for step in (steps[RefineMaps], steps[Invert]):
        assert {one["assignment_HW"].shape for one in arrays(small, step)} == {(tiny.SIDE_PX, tiny.SIDE_PX)}
    source = CommittedExamples(Supervision.from_plan(small, small.inventories()))
    assert (source.size, source.spaces) == ((SIDE, SIDE), SPACES)
    (example, *_) = source.read(source.units[-1], lambda _key: True)
    assert (example.image_HW3.shape, example.error_LHW.shape) == ((SIDE, SIDE, 3), (len(SPACES), SIDE, SIDE))

    index = fresh.index(*SETTINGS)
    conclusion = conclude(RunResult(small, small.inventories(), index, index.publish().receipt, {}, computed=0))
    summary = conclusion.summary
    assert (summary.spaces, summary.resolution_px) == (SPACES, (tiny.SIDE_PX, tiny.SIDE_PX))
    assert set(summary.psnr_db) == set(summary.maps.correlation_per_segment) == set(SPACES)
    assert sum(summary.shares.values()) == pytest.approx(1)
    assert {picture.error_HW.shape for picture in conclusion.pictures} == {(SIDE, SIDE)}
    for shares in tune(small).grid:
        assert list(shares.shares) == list(SPACES)


def test_a_map_is_never_larger_than_the_region(committed):
    assert committed.plan("maps.side_px=1024").map_size == (tiny.SIDE_PX, tiny.SIDE_PX)
    assert committed.plan("maps.side_px=null").map_size == (tiny.SIDE_PX, tiny.SIDE_PX)
    plan = committed.plan("region={top: 8, height: 16, width: 32}", "maps.side_px=16")
    assert plan.map_size == (8, 16)


@pytest.mark.parametrize("spaces", ["[F4]", "[F4, W+]", "[W+, F10]", "[W+, W+]"])
def test_spaces_that_the_generator_does_not_have_in_this_order_are_refused_before_any_work(committed, spaces):
    with pytest.raises(ConfigError, match=r"^spaces: "):
        committed.plan(f"spaces={spaces}").error_maps()
