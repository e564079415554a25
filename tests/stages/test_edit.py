"""Edits of stored codes: files, their changes by space, and nothing that depends on the batch."""

import io
import json
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from generators.directions import Direction, Provenance, save_directions
from generators.errors import DirectionError
from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.stage import Record, Rejected, Sample
from stages.edit import Edit
from stages.editing.editor import Editor
from stages.editing.settings import EditDirection, EditOfCodes, EditPart, EditSequence, edits_of
from stages.inversion.packing import pack_codes, stack_codes, unpack_codes
from stages.inversion.viewer import Viewer
from stages.maps.region import Region, to_uint8
from tests import tiny

CPU = torch.device("cpu")
SIDE = tiny.SIDE_PX
STRIPES_HW = np.repeat(np.arange(SIDE, dtype=np.uint8)[None] * 3 // SIDE, SIDE, axis=0)
"""A third of the image each in W+, F2 and F4."""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> GeneratorSource:
    return GeneratorSource(checkpoint=tiny.write_networks(tmp_path_factory.mktemp("networks"))["generator"])


@pytest.fixture(scope="module")
def generator(source):
    return source.load(CPU)


@pytest.fixture(scope="module")
def viewer(generator) -> Viewer:
    return Viewer(generator, None, Region.whole(SIDE), tiny.SPACES)


@pytest.fixture(scope="module")
def files(generator, tmp_path_factory):
    """One direction as .npy, and two in one file."""
    folder, random = tmp_path_factory.mktemp("directions"), np.random.default_rng(0)
    one = random.standard_normal((1, generator.num_ws, generator.w_dim)).astype(np.float32)
    np.save(folder / "one.npy", one)
    several = [
        Direction(name, torch.from_numpy(random.standard_normal((1, generator.w_dim))).float(), Provenance(kind="test"))
        for name in ("age", "size")
    ]
    save_directions(several, folder / "several.safetensors")
    return folder


@pytest.fixture(scope="module")
def edit(source, files):
    """Return a function that makes the stage, two directions with two magnitudes each unless told otherwise."""

    def make(**changes) -> Edit:
        directions = (
            {"name": "one", "path": files / "one.npy"},
            {"name": "age", "path": files / "several.safetensors"},
        )
        settings = {"directions": directions, "magnitudes": (-1.0, 2.0), "spaces": tiny.SPACES, "format": "png"}
        return Edit(generator=source, **(settings | changes))

    return make


@pytest.fixture(scope="module")
def sample(generator, viewer):
    """Return a function that makes an inverted sample, different for each number."""

    def make(number: int, assignment_HW=STRIPES_HW, **row) -> Sample:
        torch.manual_seed(number)
        masks = viewer.masks(assignment_HW[None])
        deltas = {space: 0.5 * torch.randn(1, *generator.feature_shape(space)) for space in masks}
        codes = Codes(generator.map(torch.randn(1, generator.z_dim)), deltas, masks)
        arrays = pack_codes(codes, 0) | {"assignment_HW": assignment_HW}
        values = {"w_plus": codes.w_plus[0].half().numpy(), "generator": generator.digest} | row
        key = f"s{number}"
        return Sample(key, "shard", {}, {"invert": Record(key, values, arrays)})

    return make


def codes_of(sample: Sample) -> Codes:
    record = sample.records["invert"]
    return unpack_codes(record.row["w_plus"], record.arrays)


def run(stage: Edit, samples: list[Sample]) -> list[Record]:
    records = list(stage.setup(CPU)(samples))
    assert all(isinstance(record, Record) for record in records), records
    return records


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def differences(record: Record, other: Record) -> list[str]:
    parts = [({**one.row, **one.files}) for one in (record, other)]
    assert parts[0].keys() == parts[1].keys()
    return [name for name in parts[0] if np.asarray(parts[0][name]).tobytes() != np.asarray(parts[1][name]).tobytes()]


def test_every_direction_and_magnitude_is_a_file_that_the_row_lists(edit, sample):
    (record,) = run(edit(), [sample(0)])
    assert list(record.files) == ["one.-1.png", "one.2.png", "age.-1.png", "age.2.png"]
    assert json.loads(record.row["edits"]) == [
        {"direction": name, "magnitude": magnitude, "file": f"{name}.{magnitude:g}.png"}
        for name in ("one", "age")
        for magnitude in (-1.0, 2.0)
    ]
    assert len({pixels(data).tobytes() for data in record.files.values()}) == 4


def test_files_hold_the_edits_of_the_codes_as_stored(edit, sample, generator, files):
    (record,) = run(edit(), [sample(0)])
    codes = codes_of(sample(0))
    direction = torch.from_numpy(np.load(files / "one.npy"))[0]
    wanted = generator.edit(codes.w_plus, codes.deltas, codes.masks, 2 * direction)
    np.testing.assert_array_equal(pixels(record.files["one.2.png"]), to_uint8(wanted)[0])


def test_an_edit_by_zero_is_the_stored_reconstruction_to_the_bit(generator, viewer, sample):
    codes = stack_codes([codes_of(sample(i)) for i in range(3)], generator.feature_shapes)
    editor = Editor(generator, Region.whole(SIDE))
    zero = EditOfCodes("nothing", 0.0, torch.zeros(generator.num_ws, generator.w_dim))
    before, after = (picture.image_N3HW for picture in editor.pictures(codes, [zero]))
    assert float((before - after).abs().max()) == 0
    assert torch.equal(before, viewer.picture(codes))
    assert torch.equal(editor.reconstruction(codes).image_N3HW, before)


def test_an_edit_by_zero_changes_no_space(edit, sample):
    (record,) = run(edit(magnitudes=(0.0, -0.0 + 1)), [sample(0)])
    assert not record.row["change_inside"][0].any()
    assert record.row["change_inside"][1].all()


def test_w_plus_is_linear_in_the_magnitude(generator, files):
    directions = (EditDirection(name="one", path=files / "one.npy"),)
    half, whole, back = edits_of(directions, (1.5, 3.0, -3.0), (), generator)
    torch.testing.assert_close(2 * half.change, whole.change)
    assert torch.equal(whole.change, -back.change)
    torch.testing.assert_close(whole.change / 3, torch.from_numpy(np.load(files / "one.npy"))[0])


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("space", ["F2", "F4"])
def test_a_region_in_a_feature_space_changes_only_through_layers_after_it(generator, edit, sample, files, space, zero):
    """A direction of the rows up to that layer changes nothing, of the rows after it something; its delta may be 0."""
    whole_HW = np.full((SIDE, SIDE), tiny.SPACES.index(space), np.uint8)
    inverted = sample(0, whole_HW)
    if zero:
        record = inverted.records["invert"]
        arrays = {name: a * 0 if name.endswith("delta") else a for name, a in record.arrays.items()}
        inverted = replace(inverted, records={"invert": replace(record, arrays=arrays)})
    side = generator.feature_shape(space)[1]
    rows = 2 * (side.bit_length() - 2)  # of a skip architecture: 2 a block, of which the first has one convolution
    path = files / "one.npy"
    directions = (
        {"name": "early", "path": path, "layers": (0, rows - 2)},
        {"name": "late", "path": path, "layers": (rows, generator.num_ws - 1)},
    )
    (record,) = run(edit(directions=directions, magnitudes=(2.0,)), [inverted])
    early, late = record.row["change_inside"][:, tiny.SPACES.index(space)]
    assert early == 0
    assert late > 1e-3


def test_changes_are_measured_inside_and_outside_each_space(edit, sample):
    (record,) = run(edit(magnitudes=(2.0,)), [sample(0)])
    inside, outside = record.row["change_inside"], record.row["change_outside"]
    assert inside.shape == outside.shape == (2, 3)
    (reconstruction,) = run(edit(magnitudes=(0.0,)), [sample(0)])
    before, after = (
        pixels(one.files[name]).astype(float) / 255
        for one, name in ((reconstruction, "one.0.png"), (record, "one.2.png"))
    )
    change_HW = np.abs(after - before).mean(-1)
    for index in range(3):
        assert inside[0, index] == pytest.approx(change_HW[index == STRIPES_HW].mean(), abs=3e-3)
        assert outside[0, index] == pytest.approx(change_HW[index != STRIPES_HW].mean(), abs=3e-3)


def test_a_space_without_pixels_has_no_change_inside_and_a_full_one_none_outside(edit, sample):
    (record,) = run(edit(), [sample(0, np.zeros_like(STRIPES_HW))])
    assert np.isnan(record.row["change_inside"][:, 1:]).all()
    assert np.isnan(record.row["change_outside"][:, 0]).all()
    assert np.isfinite(record.row["change_outside"][:, 1:]).all()


def test_results_do_not_depend_on_the_batch(edit, sample):
    samples = [sample(i, STRIPES_HW if i % 2 else np.zeros_like(STRIPES_HW)) for i in range(5)]
    together = run(edit(batch=5), samples)
    assert [record.key for record in together] == [one.key for one in samples]
    for record, one in zip(together, samples, strict=True):
        (alone,) = run(edit(batch=1), [one])
        for name in alone.files:
            assert np.abs(pixels(alone.files[name]).astype(int) - pixels(record.files[name])).max() <= 1
        for name in ("change_inside", "change_outside"):
            np.testing.assert_allclose(alone.row[name], record.row[name], atol=1e-6)
    assert [differences(one, other) for one, other in zip(run(edit(batch=5), samples), together, strict=True)] == [
        []
    ] * 5


def test_no_samples_give_no_records(edit):
    assert run(edit(), []) == []


def test_a_stage_survives_pickling(edit):
    stage = edit(sequences=(EditSequence(name="both", parts=(EditPart(direction="one"),)),))
    assert pickle.loads(pickle.dumps(stage)) == stage


def test_a_sequence_adds_its_directions_up(edit, generator):
    both = {
        "name": "both",
        "parts": ({"direction": "one"}, {"direction": "age", "magnitude": -2}),
        "magnitudes": (1, 2),
    }
    edits = {one.label: one.change for one in edit(sequences=(both,), magnitudes=(1.0,))._edits(generator)}
    torch.testing.assert_close(edits["both.2"], 2 * (edits["one.1"] - 2 * edits["age.1"]))


@pytest.mark.parametrize(("kind", "start"), [("webp", b"RIFF"), ("jpeg", b"\xff\xd8"), ("png", b"\x89PNG")])
def test_images_are_of_the_configured_format(edit, sample, kind, start):
    (record,) = run(edit(format=kind, quality=80), [sample(0)])
    assert all(data.startswith(start) for data in record.files.values())
    if kind == "webp":
        (better,) = run(edit(format=kind, quality=100), [sample(0)])
        assert sum(map(len, better.files.values())) > sum(map(len, record.files.values()))


def test_codes_of_another_generator_are_quarantined(edit, sample):
    good, bad = edit().setup(CPU)([sample(0), sample(1, generator="f00d")])
    assert isinstance(good, Record)
    assert isinstance(bad, Rejected)
    assert "inverted with the generator of SHA-256 f00d" in bad.reason


def test_a_bundle_without_the_delta_of_an_assigned_space_is_quarantined(edit, sample):
    whole = sample(0)
    record = whole.records["invert"]
    arrays = {name: array for name, array in record.arrays.items() if not name.startswith("F4")}
    (found,) = edit().setup(CPU)([replace(whole, records={"invert": replace(record, arrays=arrays)})])
    assert isinstance(found, Rejected)
    assert "assigned to F4, and its bundle has no delta there" in found.reason


def test_an_image_that_is_not_finite_is_quarantined_and_its_neighbours_are_not(edit, sample):
    w_plus = np.full_like(sample(0).records["invert"].row["w_plus"], np.nan)
    bad, good = edit().setup(CPU)([sample(0, w_plus=w_plus), sample(1)])
    assert isinstance(bad, Rejected)
    assert "the picture of its codes as stored is not finite" in bad.reason
    assert isinstance(good, Record)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 3, 8), np.float32), r"edit 'x', .*wrong\.npy: direction 'wrong' is \[3, 8\].*another generator"),
        (np.zeros((1, 5), np.float32), r"direction 'wrong' is \[1, 5\]"),
        (np.full((1, 8), np.nan, np.float32), "NaN or infinity"),
    ],
)
def test_a_direction_that_does_not_fit_is_refused_before_any_image_is_made(edit, generator, tmp_path, array, reason):
    np.save(tmp_path / "wrong.npy", array)
    stage = edit(directions=({"name": "x", "path": tmp_path / "wrong.npy"},))
    with pytest.raises(DirectionError, match=reason):
        stage.check(generator)
    with pytest.raises(DirectionError, match=reason):
        stage.setup(CPU)


def test_an_unknown_direction_or_row_is_refused(edit, generator, files):
    path = files / "several.safetensors"
    with pytest.raises(DirectionError, match="has no direction 'x': it has age, size"):
        edit(directions=({"name": "x", "path": path},)).check(generator)
    with pytest.raises(DirectionError, match="layers 2-99"):
        edit(directions=({"name": "x", "path": path, "direction": "age", "layers": (2, 99)},)).check(generator)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magnitudes": (1.0, 1.0)}, r"several edits would be called age\.1, one\.1"),
        ({"magnitudes": (float("nan"),)}, "finite"),
        ({"directions": ()}, "at least 1"),
        ({"directions": ({"name": "a", "path": "s3://b/a.npy"},)}, "from local files: copy it with"),
        ({"directions": ({"name": "A.b", "path": "a"},)}, "pattern"),
        ({"sequences": ({"name": "s", "parts": ({"direction": "no"},)},)}, "sequence 's' names no"),
    ],
)
def test_settings_that_cannot_be_carried_out_are_refused(edit, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        edit(**changes)


def test_memory_holds_the_image_of_one_edit_at_a_time(generator, sample):
    editor = Editor(generator, Region.whole(SIDE))
    edits = [EditOfCodes("e", float(i), torch.full((1, generator.w_dim), float(i))) for i in range(4)]
    images: list[weakref.ref[torch.Tensor]] = []
    for picture in editor.pictures(codes_of(sample(0)), edits):
        images.append(weakref.ref(picture.image_N3HW))
        del picture
        assert [image() is not None for image in images].count(True) <= 1
    assert len(images) == 1 + len(edits)
