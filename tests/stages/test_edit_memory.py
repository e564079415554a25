"""Memory of edits: flat in their number, and halved batches where it is too small."""

import logging

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.editing import inverted
from generators.directions import Direction, Provenance, save_directions
from generators.families.stylegan2 import StyleGAN2
from generators.generator import State
from generators.source import GeneratorSource
from stages.base.stage import Record
from stages.edit import Edit
from tests import tiny
from tests.stages.test_edit import pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def edit(tmp_path_factory):
    """Return a function that makes the stage with a number of edits."""
    folder = tmp_path_factory.mktemp("networks")
    source = GeneratorSource(checkpoint=tiny.write_networks(folder)["generator"])
    random = torch.Generator().manual_seed(0)
    direction = Direction("d", torch.randn(1, 8, generator=random), Provenance(kind="test"))
    save_directions([direction], folder / "d.safetensors")

    def make(count: int, **changes) -> Edit:
        magnitudes = tuple(float(number + 1) / count for number in range(count))
        directions = ({"name": "d", "path": folder / "d.safetensors"},)
        return Edit(generator=source, directions=directions, magnitudes=magnitudes, format="png", **changes)

    return make


@pytest.fixture(scope="module")
def samples(edit):
    return inverted(edit(1).generator.load(CPU), 5)


def peak_bytes(stage: Edit, samples) -> int:
    """Return the most bytes of tensors that were allocated at once while a stage worked."""
    work = stage.setup(CPU)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        records = list(work(samples))
    assert all(isinstance(record, Record) for record in records)
    sizes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert sizes
    return int(np.cumsum(sizes).max())


def test_memory_does_not_grow_with_the_number_of_edits(edit, samples):
    few, many = (peak_bytes(edit(count), samples) for count in (2, 16))
    image_bytes = len(samples) * 3 * tiny.SIDE_PX**2 * 4
    assert many - few < image_bytes / 2, f"{few} bytes for 2 edits, {many} for 16"


class Room:
    """Memory for a number of images at once; it notes how many were asked for."""

    def __init__(self, fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        begin = StyleGAN2.begin

        def within(generator: StyleGAN2, w: torch.Tensor) -> State:
            self.asked.append(len(w))
            if len(w) > fits:
                raise torch.OutOfMemoryError("tried to allocate 2 GiB")
            return begin(generator, w)

        monkeypatch.setattr(StyleGAN2, "begin", within)


def test_a_batch_without_room_is_halved_for_good_and_no_image_is_lost(edit, samples, monkeypatch, caplog):
    wanted = list(edit(3, batch=2).setup(CPU)(samples))
    work, room = edit(3, batch=5).setup(CPU), Room(2, monkeypatch)
    with caplog.at_level(logging.WARNING):
        records = list(work(samples))
    assert [record.key for record in records] == [one.key for one in samples]
    assert set(room.asked) == {5, 2, 1}
    assert room.asked.count(5) == 1
    assert [record.message for record in caplog.records] == [
        "no memory for edits of 5 images at once, continuing with 2: tried to allocate 2 GiB"
    ]
    for record, other in zip(records, wanted, strict=True):
        assert record.files.keys() == other.files.keys()
        for name, data in record.files.items():
            assert np.abs(pixels(data).astype(int) - pixels(other.files[name])).max() <= 1
    room.asked.clear()
    list(work(samples))
    assert max(room.asked) == 2, "later units begin with the number that fits"


def test_memory_that_fills_up_in_the_middle_of_the_edits_loses_none(edit, samples, monkeypatch):
    work, begin, calls = edit(4, batch=4).setup(CPU), StyleGAN2.begin, []

    def fourth_fails(generator: StyleGAN2, w: torch.Tensor) -> State:
        calls.append(len(w))
        if len(calls) == 4:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return begin(generator, w)

    monkeypatch.setattr(StyleGAN2, "begin", fourth_fails)
    records = list(work(samples))
    assert [list(record.files) for record in records] == [["d.0.25.png", "d.0.5.png", "d.0.75.png", "d.1.png"]] * 5


def test_memory_too_small_for_one_image_says_what_to_do(edit, samples, monkeypatch):
    work = edit(1, batch=4).setup(CPU)
    Room(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError, match="too small for edits of one image: choose a smaller generator"):
        list(work(samples))
