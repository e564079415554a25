"""The segmenter's training under Ray Train: real workers, one of which dies, and states in object storage."""

import dataclasses
import gc
import io
import os
import signal
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch

from infra.receipts import Ledger
from infra.stores.storage import open_store
from pipeline.training.committed_examples import Supervision
from pipeline.training.on_ray import train_on_ray
from pipeline.training.states import state_in
from pipeline.training.train_job import TrainJob
from stages.segmenter.network import load_segmenter
from stages.segmenter.survey import PICTURED
from tests.pipeline.conftest import COUNTS
from tests.tiny import SPACES

EPOCHS, KILLED_AFTER = 8, 5
SETTINGS = (
    f"train_segmenter.epochs={EPOCHS}",
    "train_segmenter.cache_mb=0",  # so that every pass reads
    "train_segmenter.checkpoint_every_s=1e-6",
    "train_segmenter.validation_share=0",
)


@dataclasses.dataclass(frozen=True)
class Fatal(Supervision):
    """Kills the first process that reads it once the stored state is old enough; reads are noted."""

    folder: Path

    def read(self, reader, unit, wanted):
        generation = "second" if (self.folder / "killed").exists() else "first"
        with (self.folder / f"{generation}-{os.getpid()}").open("a") as notes:
            notes.write(f"{unit.name}\n")
        if generation == "first" and epochs_in(self.ledger) >= KILLED_AFTER:
            try:
                (self.folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return super().read(reader, unit, wanted)


def epochs_in(ledger: Ledger) -> int:
    """Return the number of epochs completed in the stored state."""
    stored = [ledger.store.read(entry.name) for entry in ledger.store.list("training/")]
    states = [torch.load(io.BytesIO(state_in(data)), weights_only=True) for data in stored]
    return max((len(state["curve"]) for state in states), default=0)


@pytest.fixture
def on_server(committed, ministack, use_server, tmp_path) -> Callable[[], TrainJob]:
    """Return a function that makes the training of a run whose store is a bucket."""
    use_server(ministack)
    store = open_store(f"s3://{ministack.make_bucket(f'train-{uuid.uuid4().hex[:12]}')}/store")
    for name, data in committed.files().items():
        store.write(name, data)
    (tmp_path / "notes").mkdir()

    def make() -> TrainJob:
        plan = committed.plan(*SETTINGS)
        job = TrainJob.from_plan(plan, plan.inventories())
        fields = {field.name: getattr(job.supervision, field.name) for field in dataclasses.fields(Supervision)}
        return dataclasses.replace(
            job, supervision=Fatal(**fields | {"ledger": Ledger(store), "folder": tmp_path / "notes"})
        )

    return make


@pytest.fixture
def ray_cluster(on_server):  # whose environment the workers need
    ray.init("local", num_cpus=3, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()
    with warnings.catch_warnings():  # Ray leaves its processes to the garbage collector, which finds them running
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # it warns of its own defaults
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_to_the_end_though_one_is_killed_and_resume_from_the_state_in_the_store(on_server, tmp_path):
    job, notes = on_server(), tmp_path / "notes"
    trained = train_on_ray(job, workers=2, gpus_per_worker=0)
    assert (notes / "killed").exists()
    assert [point["epoch"] for point in trained.curve] == list(range(EPOCHS))
    (tmp_path / "segmenter").write_bytes(trained.checkpoint)
    assert load_segmenter(tmp_path / "segmenter").spaces == SPACES
    reads = [path.read_text().split() for path in notes.glob("second-*")]
    assert len(reads) == 2
    assert not any("held-b" in unit for units in reads for unit in units), "nobody looked at everything again"
    passes = max(sum(unit.endswith("-000000-000004") for unit in units) for units in reads)  # each is an epoch
    assert passes <= EPOCHS - KILLED_AFTER + 2 + PICTURED, "they resumed from the latest state"
    receipt = job.commit(trained, 0.0, "2 workers")
    assert len(receipt.recorded) == COUNTS["train-a"]
    assert list(job.supervision.ledger.store.list("training/")) == []
