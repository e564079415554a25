"""Memory that is full: batches in parts, with the results that there were room for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.base.errors import StageError
from stages.base.in_parts import InParts
from stages.segmenter.network import SegmenterNetwork, new_segmenter
from stages.train_segmenter import train
from tests.stages.in_memory import InMemory
from tests.stages.test_train_segmenter import CPU, QUICK, equal, examples, loaded, network_input

ROOT = Path(__file__).parents[3]
IN_LITTLE_MEMORY = """
import json, resource, sys, torch
from stages.base.in_parts import InParts
from stages.segmenter.network import SegmenterNetwork, new_segmenter
torch.set_num_threads(1)
segmenter = new_segmenter(SegmenterNetwork(backbone="light"), ("W+", "F4"), 0).eval()
images = torch.rand(48, 3, 256, 256, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    wanted = torch.cat([segmenter(image) for image in images.split(1)])
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (320 << 20),) * 2)
    predict = InParts(segmenter, "the test")
    found = predict(images)
json.dump({"most": predict._room.most, "difference": float((found - wanted).abs().max())}, sys.stdout)
"""


class Room:
    """A network for whose forward pass memory suffices up to a number of images; it notes how many came."""

    def __init__(self, fits: int) -> None:
        self.fits, self.seen = fits, []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(batch))
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return batch * 2


def test_a_batch_is_halved_until_it_fits_and_stays_so():
    room = Room(3)
    in_parts = InParts(room, "the test")
    batch = torch.arange(13.0)
    for _ in range(2):
        assert torch.equal(in_parts(batch), batch * 2)
    assert room.seen == [13, 6, 3, 3, 3, 3, 1, 3, 3, 3, 3, 1]


def test_where_one_image_does_not_fit_the_error_says_what_to_do():
    with pytest.raises(torch.OutOfMemoryError, match=r"for the test of one image: choose a smaller .*network"):
        InParts(Room(0), "the test")(torch.ones(4))


def test_other_errors_are_not_taken_for_it():
    def broken(_batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        InParts(broken, "the test")(torch.ones(4))


def test_an_empty_batch_is_not_a_reason_to_halve():
    assert InParts(Room(1), "the test")(torch.ones(0)).shape == (0,)


def test_a_process_whose_memory_is_really_full_predicts_the_same():
    said = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY], check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["most"] in (1, 3, 6, 12, 24)
    assert found["difference"] < 1e-5


@pytest.mark.parametrize("backbone", ["light", "deeplabv3_mobilenet_v3_large"])
def test_parts_change_a_prediction_by_rounding_at_most(backbone):
    segmenter = new_segmenter(SegmenterNetwork(backbone=backbone), ("W+", "F4"), 0).eval()
    batch = torch.rand(5, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole = segmenter(batch)
        for size in (1, 2, 3):
            parts = torch.cat([segmenter(part) for part in batch.split(size)])
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


# ---- training


def full_above(most: int):
    """Return a wrapper that makes a network whose memory suffices for this number of images in a training step."""

    class Small(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image_N3HW: torch.Tensor) -> torch.Tensor:
            if len(image_N3HW) > most:
                raise torch.OutOfMemoryError("tried to allocate 2 GiB")
            return self.network(image_N3HW)

    return Small


STAGE = QUICK.model_copy(update={"batch": 8})


def test_a_training_whose_memory_is_full_computes_its_batches_in_parts(caplog):
    made = InMemory(examples(12))
    found = train(STAGE, made, CPU, wrap=full_above(4))
    assert equal(found, train(STAGE.model_copy(update={"micro_batch": 4}), made, CPU))
    assert "no memory to train on 8 images at once, continuing with 4" in caplog.text


def test_parts_of_a_batch_learn_as_the_whole_does(tmp_path):
    made = examples(12)
    whole, parts = (
        loaded(train(STAGE.model_copy(update={"micro_batch": size}), InMemory(made), CPU), folder)
        for size, folder in ((None, tmp_path), (4, tmp_path))
    )
    with torch.no_grad():
        batch = torch.cat([network_input(one) for one in examples(16)[12:]])
        torch.testing.assert_close(parts(batch).mean(), whole(batch).mean(), rtol=0.1, atol=0)


def test_a_training_that_cannot_hold_two_images_says_what_to_lower():
    with pytest.raises(StageError, match=r"memory is too small to train on 2 images at once: lower .*micro_batch"):
        train(STAGE, InMemory(examples(12)), CPU, wrap=full_above(1))
