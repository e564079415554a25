"""Memory of edits: flat in their number, and halved batches where it is too small."""

import logging
import weakref

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.editing import _codes, inverted
from generators.directions import Direction, Provenance, save_directions
from generators.families.stylegan2 import StyleGAN2
from generators.generator import State
from generators.source import GeneratorSource
from stages.edit import UNENCODED, Edit
from stages.editing.editor import Editor
from stages.images.encoding import encoded
from stages.inversion.packing import stack_codes
from stages.maps.change import change_by_space
from stages.maps.region import Region
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


def peak_bytes(edit, samples, count: int) -> int:
    """Return the most bytes of tensors that were allocated at once while a number of edits were made and measured."""
    stage = edit(count)
    generator = stage.generator.load(CPU)
    editor, edits = Editor(generator, Region.whole(tiny.SIDE_PX)), stage._edits(generator)
    codes = stack_codes([_codes(sample) for sample in samples], generator.feature_shapes)
    assignment_NHW = torch.zeros(len(samples), tiny.SIDE_PX, tiny.SIDE_PX, dtype=torch.uint8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        pictures = editor.pictures(codes, edits)
        before = next(pictures)
        for picture in pictures:
            change_by_space(picture.image_N3HW, before.image_N3HW, assignment_NHW, 3)
    sizes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert sizes
    return int(np.cumsum(sizes).max())


def test_tensors_do_not_grow_with_the_number_of_edits(edit, samples):
    few, many = (peak_bytes(edit, samples, count) for count in (2, 16))
    image_bytes = 3 * tiny.SIDE_PX**2 * 4
    assert many - few < image_bytes, f"{few} bytes for 2 edits, {many} for 16"


def test_few_images_wait_to_be_encoded_however_many_edits_there_are(edit, samples, monkeypatch):
    alive, most = list[weakref.ref](), []

    def counting(pixels_HW3: np.ndarray, **settings: object) -> bytes:
        alive.append(weakref.ref(pixels_HW3))
        most.append(sum(pixels() is not None for pixels in alive))
        return encoded(pixels_HW3, **settings)

    monkeypatch.setattr("stages.edit.encoded", counting)
    assert len(list(edit(12, batch=5).setup(CPU)(samples))) == 5
    assert len(alive) == 12 * 5
    assert max(most) <= (UNENCODED + 2) * 5


def test_the_edits_of_a_batch_share_one_unedited_pass(edit, samples, monkeypatch):
    work, room = edit(6, batch=5).setup(CPU), Room(5, monkeypatch)
    list(work(samples))
    assert room.asked == [5] * 7


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
        "no memory for edits of 5 images at once, continuing with 2"
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
