"""A run can use a segmenter's checkpoint in place of a training: no error maps, and everything else as ever."""

import pytest
import torch

from pipeline.errors import ConfigError, RunError
from pipeline.operations.status import status_of
from pipeline.operations.verify import verify_run
from pipeline.training.adoption import adopt
from stages.base.errors import WeightsError
from stages.segmenter.choice import Published
from stages.segmenter.network import SegmenterNetwork, load_segmenter, new_segmenter, save_segmenter
from tests.pipeline.conftest import Committed, compute, scan_input

PUBLISHED = "segmenter={kind: published, weights: segmenter.pt}"
LIGHT = SegmenterNetwork(backbone="light")


def write_segmenter(run: Committed, spaces: tuple[str, ...] | None = None) -> None:
    segmenter = new_segmenter(LIGHT, spaces or run.plan().spaces, seed=4)
    (run.folder / "segmenter.pt").write_bytes(save_segmenter(segmenter, "a test"))


def commit_with(run: Committed) -> None:
    """Commit everything up to the index, as a run does."""
    plan = run.plan(PUBLISHED)
    scan_input(plan)
    plan = run.plan(PUBLISHED)
    assert isinstance(plan.config.segmenter, Published)
    for step in plan.map_steps(adopt(plan, plan.config.segmenter)):
        compute(plan, step)
    run.index(PUBLISHED).publish()


def test_a_run_with_a_published_segmenter_is_complete_without_error_maps(fresh: Committed):
    write_segmenter(fresh)
    commit_with(fresh)
    problems, facts = verify_run(fresh.plan(PUBLISHED))
    assert problems == []
    assert "error_maps: 0 samples = 0 recorded + 0 quarantined" in facts
    assert "invert: 8 samples = 8 recorded + 0 quarantined" in facts
    status = status_of(fresh.plan(PUBLISHED), ahead=True)
    assert status.complete
    assert not (fresh.folder / "store/receipts/error_maps").exists()


def test_the_maps_are_those_of_the_published_segmenter(fresh: Committed):
    write_segmenter(fresh)
    commit_with(fresh)
    plan = fresh.plan(PUBLISHED)
    receipt = plan.ledger.receipt(plan.train_segmenter())
    assert receipt is not None
    used = load_segmenter(fresh.file("**/segmenter*.safetensors"))
    image = torch.rand(1, 3, 24, 40)
    assert torch.equal(used(image), load_segmenter(fresh.folder / "segmenter.pt")(image))


def test_the_report_of_such_a_run_shows_no_training(fresh: Committed, invertmill):
    write_segmenter(fresh)
    commit_with(fresh)
    status, said, errors = invertmill("report", fresh.folder / "run.yaml", "--set", PUBLISHED)
    assert status == 0, said + errors
    assert (fresh.folder / "out/report.html").exists()


def test_before_the_input_is_read_nothing_is_expected_of_error_maps(fresh: Committed):
    write_segmenter(fresh)
    stages = {stage.name: stage for stage in status_of(fresh.plan(PUBLISHED), ahead=True).stages}
    assert (stages["error_maps"].units, stages["error_maps"].samples) == (0, 0)
    assert stages["predict_maps"].samples > 0


def test_a_segmenter_of_other_spaces_is_refused_before_any_work(fresh: Committed):
    write_segmenter(fresh, ("W+", "F4", "F20"))
    with pytest.raises(WeightsError, match=r"segmenter\.pt predicts errors of W\+, F4, F20, but this run inverts in"):
        fresh.plan(PUBLISHED).check_weights()


def test_a_segmenter_that_is_missing_or_of_no_known_format_is_refused_before_any_work(fresh: Committed):
    with pytest.raises(RunError, match=r"no weights at .*segmenter\.pt"):
        fresh.plan(PUBLISHED).check_weights()
    (fresh.folder / "segmenter.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"segmenter\.pt"):
        fresh.plan(PUBLISHED).check_weights()
    with pytest.raises(ConfigError, match=r"segmenter\.weights"):
        fresh.plan("segmenter={kind: published}")


def test_a_trained_segmenter_keeps_its_address(committed: Committed):
    write_segmenter(committed)
    trained, published = committed.plan(), committed.plan(PUBLISHED)
    assert trained.ledger.receipt(trained.train_segmenter()) is not None
    assert published.train_segmenter() != trained.train_segmenter()
    assert published.ledger.receipt(published.train_segmenter()) is None
