"""The segmenter's training under Ray Train: real workers, one of which dies."""

import gc
import os
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray

from pipeline.training import train_on_ray
from stages.segmenter import SegmenterNetwork, load_segmenter
from stages.train_segmenter import Example, TrainSegmenter

SPACES = ("W+", "F4")
EPOCHS = 6
READS_BEFORE, READS_AN_EPOCH = 4, 7  # of a worker with three examples: one look; two batches of 2 and to measure


@dataclass(frozen=True)
class FatalExamples(Sequence):
    """Six examples, whose reader in the second worker is killed once, in its fourth epoch; reads are noted."""

    folder: Path

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Example:
        notes = self.folder / f"reads-{os.getpid()}"
        with notes.open("a") as file:
            file.write(f"{index}\n")
        if index % 2 == 1 and len(notes.read_text().split()) > READS_BEFORE + 3 * READS_AN_EPOCH:
            try:
                (self.folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        image_HW3 = np.full((16, 16, 3), 40 * index, np.uint8)
        image_HW3[4:9, 4:9] = 255
        error_LHW = np.full((2, 16, 16), 0.1, np.float16)
        error_LHW[:, 4:9, 4:9] = 0.6
        return Example(f"image{index}", image_HW3, error_LHW)


@pytest.fixture
def ray_cluster():
    ray.init(num_cpus=3, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()
    with warnings.catch_warnings():  # Ray leaves its processes to the garbage collector, which finds them running
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # it warns of its own defaults
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_to_the_end_though_one_is_killed_and_go_on_from_the_latest_state(tmp_path):
    stage = TrainSegmenter(network=SegmenterNetwork(backbone="light"), epochs=EPOCHS, batch=4, validation_share=0.0)
    storage = tmp_path / "storage"
    notes = tmp_path / "notes"
    notes.mkdir()
    trained = train_on_ray(
        stage,
        lambda: FatalExamples(notes),
        workers=2,
        gpus_per_worker=0,
        storage_path=str(storage),
        name="segmenter",
        spaces=SPACES,
        checkpoint_every_s=0.0,
    )
    assert (notes / "killed").exists()
    assert [point["epoch"] for point in trained.curve] == list(range(EPOCHS))
    (tmp_path / "segmenter").write_bytes(trained.checkpoint)
    assert load_segmenter(tmp_path / "segmenter").spaces == SPACES
    reads = [path.read_text().split() for path in notes.glob("reads-*")]
    assert len(reads) == 4, "two workers, started twice"
    for indices in reads:
        assert len(indices) < READS_BEFORE + EPOCHS * READS_AN_EPOCH, "no worker trained from the start to the end"
        assert len({int(index) % 2 for index in indices[1:]}) == 1, "each reads its share, after the first image's size"
