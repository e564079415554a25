"""A disk that is full, or cannot be written, where a run keeps its report and its checkpoints."""

import re

import pytest

from infra.errors import StoreError
from infra.files import partial_path
from pipeline.data.trained_networks import TrainedSegmenter
from pipeline.errors import RunError
from pipeline.execution.run import RunResult
from pipeline.report.conclude import conclude


@pytest.fixture
def conclusion(committed):
    plan, index = committed.plan(), committed.index()
    return conclude(RunResult(plan, plan.inventories(), index, index.publish().receipt, {}, computed=0))


@pytest.mark.parametrize("name", ["report.html", "summary.json"])
def test_a_full_disk_is_told_with_what_to_do_and_the_last_report_stays(conclusion, committed, tmp_path, name):
    config = committed.plan().config.model_copy(update={"folder": tmp_path / "out"})
    plan = committed.plan()
    plan.config = config
    conclusion.write(plan)
    before = {path.name: path.read_bytes() for path in config.folder.iterdir()}
    partial_path(config.folder / name).symlink_to("/dev/full")  # the kernel's disk without space
    with pytest.raises(RunError, match=r"No space left on device; free space there.*`invertmill report`"):
        conclusion.write(plan)
    after = {path.name: path.read_bytes() for path in config.folder.iterdir()}
    assert after.keys() == before.keys()
    assert after[name] == before[name]


def test_a_folder_that_cannot_be_made_is_told(conclusion, committed, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    plan = committed.plan()
    plan.config = plan.config.model_copy(update={"folder": tmp_path / "file" / "out"})
    with pytest.raises(RunError, match=re.escape(str(tmp_path / "file"))):
        conclusion.write(plan)


def test_a_checkpoint_that_cannot_be_kept_is_told(committed, private_cache):
    plan = committed.plan()
    receipt = plan.ledger.receipt(plan.train_segmenter())
    private_cache.write_bytes(b"")
    trained = TrainedSegmenter(receipt)
    with pytest.raises(StoreError, match="cannot write"):
        trained.fetch(plan.ledger)
