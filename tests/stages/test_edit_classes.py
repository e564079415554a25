"""Edits of conditional generators: directions of z, and moves from one class to another (thesis Fig. 4.4)."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from generators.classes import mean_w_of_class
from generators.errors import DirectionError
from generators.generator import Generator
from generators.latents import Codes, masks_of
from generators.prior import draw_w
from generators.source import GeneratorSource
from stages.base.stage import Record, Rejected, Sample
from stages.edit import Edit
from stages.editing.editor import Editor
from stages.editing.settings import AnyDirection, ClassMove, EditDirection, EditSequence, edits_of
from stages.inversion.packing import pack_codes, stack_codes, unpack_codes
from stages.maps.region import Region, to_uint8
from tests import tiny
from tests.stages.images.test_labels import CLASSES, generators
from tests.stages.test_edit import differences, pixels

CPU = torch.device("cpu")
SIDE = tiny.SIDE_PX
TO_FIVE = {"name": "to-five", "to_class": 5}


@pytest.fixture(scope="module", params=["stylegan2", "biggan"])
def source(request, tmp_path_factory) -> GeneratorSource:
    checkpoint, _ = generators(tmp_path_factory.mktemp(request.param) / "g", request.param)
    return GeneratorSource(checkpoint=checkpoint)


@pytest.fixture(scope="module")
def biggan(tmp_path_factory) -> GeneratorSource:
    return GeneratorSource(checkpoint=generators(tmp_path_factory.mktemp("biggan") / "g", "biggan")[0])


def stage(source: GeneratorSource, *directions: dict, **changes) -> Edit:
    return Edit(generator=source, **({"directions": directions or (TO_FIVE,), "format": "png"} | changes))


def sample(generator: Generator, number: int, label: int | None, spaces: Sequence[int] = (0, 1)) -> Sample:
    """Return an inverted sample of a class, its columns of pixels in turn in some of the spaces."""
    random = torch.Generator().manual_seed(number)
    assignment_HW = np.tile(np.resize(np.array(spaces, np.uint8), SIDE), (SIDE, 1))
    masks = masks_of(torch.from_numpy(assignment_HW)[None], generator.spaces, generator.feature_shapes)
    deltas = {space: 0.5 * torch.randn(1, *generator.feature_shape(space), generator=random) for space in masks}
    one_hot = torch.nn.functional.one_hot(torch.tensor([label or 0]), CLASSES).float()
    codes = Codes(generator.map(torch.randn(1, generator.z_dim, generator=random), one_hot), deltas, masks)
    row = {"w_plus": codes.w_plus[0].half().numpy(), "generator": generator.digest}
    row |= {} if label is None else {"label": label}
    arrays = pack_codes(codes, 0) | {"assignment_HW": assignment_HW}
    return Sample(f"s{number}", "shard", {}, {"invert": Record(f"s{number}", row, arrays)})


def codes_of(sample: Sample) -> Codes:
    record = sample.records["invert"]
    return unpack_codes(record.row["w_plus"], record.arrays)


def run(made: Edit, samples: Sequence[Sample]) -> list[Record]:
    records = list(made.setup(CPU)(samples))
    assert all(isinstance(record, Record) for record in records), records
    return records


def test_a_move_is_the_difference_of_the_mean_codes_of_two_classes(source):
    generator = source.load(CPU)
    half, whole = edits_of((ClassMove(name="a", to_class=5, from_class=2),), (0.5, 1.0), (), generator)
    means = [
        draw_w(generator, 10_000, label=torch.nn.functional.one_hot(torch.tensor(label), CLASSES).float()).mean(0)
        for label in (5, 2)
    ]
    torch.testing.assert_close(whole.change_of(())[0], means[0] - means[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(2 * half.change_of(()), whole.change_of(()))


def test_a_move_of_a_biggan_changes_the_class_embedding_and_not_z(biggan):
    generator = biggan.load(CPU)
    (edit,) = edits_of((ClassMove(name="a", to_class=5, from_class=2),), (1.0,), (), generator)
    change_D = edit.change_of(())[0]
    assert change_D[: generator.z_dim].abs().max() == 0
    embedding = generator.embeddings.weight
    torch.testing.assert_close(change_D[generator.z_dim :], embedding[:, 5] - embedding[:, 2], rtol=1e-5, atol=1e-6)


def test_a_biggan_code_of_one_class_moved_to_another_is_that_of_the_other(biggan):
    generator, z = biggan.load(CPU), torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    before, after = (
        generator.map(z, torch.nn.functional.one_hot(torch.tensor([label]), CLASSES).float()) for label in (2, 5)
    )
    (edit,) = edits_of((ClassMove(name="a", to_class=5),), (1.0,), (), generator)
    torch.testing.assert_close(before + edit.change_of([2]), after, rtol=1e-5, atol=1e-6)


def test_each_image_moves_from_its_own_class(source):
    generator = source.load(CPU)
    samples = [sample(generator, number, label) for number, label in enumerate((2, 5, 0))]
    records = run(stage(source, magnitudes=(1.0,), batch=3), samples)
    for taken, label, record in zip(samples, (2, 5, 0), records, strict=True):
        codes = codes_of(taken)
        change = mean_w_of_class(generator, 5) - mean_w_of_class(generator, label)
        wanted = to_uint8(generator.edit(codes.w_plus, codes.deltas, codes.masks, change))[0]
        assert np.abs(pixels(record.files["to-five.1.png"]).astype(int) - wanted).max() <= 1
        assert json.loads(record.row["edits"]) == [{"direction": "to-five", "magnitude": 1.0, "file": "to-five.1.png"}]
        assert bool(np.nan_to_num(record.row["change_inside"][0]).any()) is (label != 5)


def test_a_move_by_zero_is_the_stored_reconstruction_to_the_bit(source):
    generator = source.load(CPU)
    codes = stack_codes([codes_of(sample(generator, i, i)) for i in range(3)], generator.feature_shapes)
    edits = edits_of((ClassMove(name="a", to_class=5),), (0.0,), (), generator)
    before, after = Editor(generator, Region.whole(SIDE)).pictures(codes, edits, [0, 1, 2])
    assert torch.equal(before.image_N3HW, after.image_N3HW)


def test_a_region_in_f2_changes_only_through_the_blocks_after_it(biggan):
    """Rows 0 to 3 drive the first linear layer and the blocks up to F2, rows 4 and 5 those after it."""
    generator = biggan.load(CPU)
    directions = (
        {"name": "early", "to_class": 5, "layers": (0, 3)},
        {"name": "late", "to_class": 5, "layers": (4, 5)},
    )
    (record,) = run(stage(biggan, *directions, magnitudes=(1.0,)), [sample(generator, 0, 2, (1,))])
    early, late = record.row["change_inside"][:, 1]
    assert early == 0
    assert late > 1e-4


def test_results_do_not_depend_on_the_batch(source):
    generator, name = source.load(CPU), "to-five.0.5.png"
    samples = [sample(generator, number, number, (number % 2, 0)) for number in range(4)]
    batched, single = (stage(source, batch=batch, magnitudes=(0.5,)) for batch in (4, 1))
    together = run(batched, samples)
    for taken, record in zip(samples, together, strict=True):
        (alone,) = run(single, [taken])
        assert np.abs(pixels(alone.files[name]).astype(int) - pixels(record.files[name])).max() <= 1
        np.testing.assert_allclose(alone.row["change_inside"], record.row["change_inside"], atol=1e-6)
    again = run(batched, samples)
    assert [differences(*pair) for pair in zip(again, together, strict=True)] == [[]] * 4


def test_an_image_without_a_class_is_quarantined_and_its_neighbours_are_not(source):
    generator = source.load(CPU)
    good, bad, other = stage(source).setup(CPU)([sample(generator, i, label) for i, label in enumerate((1, None, 3))])
    assert isinstance(good, Record)
    assert isinstance(other, Record)
    assert bad == Rejected(
        "s1",
        "no class: to-five moves an image from its own class, and this one was inverted without; set label and invert "
        "again, or give from_class",
    )


def test_an_image_of_a_class_that_the_generator_lacks_is_quarantined(source):
    generator = source.load(CPU)
    taken = sample(generator, 0, 1)
    record = taken.records["invert"]
    wrong = Record(record.key, dict(record.row) | {"label": CLASSES}, record.arrays)
    (rejected,) = stage(source).setup(CPU)([Sample("s0", "shard", {}, {"invert": wrong})])
    assert rejected == Rejected("s0", "inverted as class 7, and the generator has 7 classes; invert it again")


def test_no_class_is_needed_if_the_configuration_gives_both(source):
    generator = source.load(CPU)
    (record,) = run(stage(source, TO_FIVE | {"from_class": 2}, magnitudes=(1.0,)), [sample(generator, 0, None)])
    assert np.nan_to_num(record.row["change_inside"]).any()


def test_a_direction_of_z_keeps_the_class(biggan, tmp_path: Path):
    generator = biggan.load(CPU)
    np.save(tmp_path / "z.npy", np.ones((1, generator.z_dim), np.float32))
    (edit,) = edits_of((EditDirection(name="z", path=tmp_path / "z.npy", layers=(1, 2)),), (2.0,), (), generator)
    assert edit.change.shape == (generator.num_ws, generator.w_dim)
    assert (edit.change[1:3, : generator.z_dim] == 2).all()
    assert edit.change[:, generator.z_dim :].abs().max() == 0
    assert edit.change[[0, 3, 4, 5]].abs().max() == 0
    (record,) = run(stage(biggan, {"name": "z", "path": tmp_path / "z.npy"}), [sample(generator, 0, None)])
    assert np.nan_to_num(record.row["change_inside"]).any()


def test_a_sequence_adds_a_direction_and_a_move(biggan, tmp_path: Path):
    generator = biggan.load(CPU)
    np.save(tmp_path / "z.npy", np.ones((1, generator.z_dim), np.float32))
    directions = (EditDirection(name="z", path=tmp_path / "z.npy"), ClassMove(name="five", to_class=5))
    both = EditSequence.model_validate(
        {"name": "both", "parts": [{"direction": "z", "magnitude": 2}, {"direction": "five", "magnitude": 0.5}],
         "magnitudes": [1, 3]}
    )  # fmt: skip
    edits = {edit.label: edit for edit in edits_of(directions, (1.0,), (both,), generator)}
    wanted = 2 * edits["z.1"].change_of([2]) + 0.5 * edits["five.1"].change_of([2])
    torch.testing.assert_close(edits["both.1"].change_of([2]), wanted)
    torch.testing.assert_close(edits["both.3"].change_of([2]), 3 * wanted)
    assert edits["both.1"].needs_classes
    assert not edits["z.1"].needs_classes


@pytest.mark.parametrize(
    ("direction", "reason"),
    [
        ({"to_class": 7}, "edit 'x': the generator has the classes 0 to 6, got 7"),
        ({"to_class": 1, "from_class": 9}, "edit 'x': the generator has the classes 0 to 6, got 9"),
        ({"to_class": 1, "layers": (2, 99)}, "edit 'x': layers 2-99"),
    ],
)
def test_a_move_that_the_generator_cannot_make_is_refused_before_any_image_is_made(source, direction, reason):
    with pytest.raises(DirectionError, match=reason):
        stage(source, {"name": "x"} | direction).check(source.load(CPU))


def test_an_unconditional_generator_has_no_moves(tmp_path: Path):
    generator = GeneratorSource(checkpoint=tiny.write_networks(tmp_path)["generator"])
    with pytest.raises(DirectionError, match="edit 'to-five': the generator is unconditional"):
        stage(generator).check(generator.load(CPU))


@pytest.mark.parametrize(
    ("direction", "reason"),
    [
        ({"name": "x", "to_class": -1}, "greater than or equal to 0"),
        ({"name": "x", "to_class": "cat"}, "valid integer"),
        ({"name": "x", "to_class": 1, "path": "a.npy"}, "path"),
        ({"name": "x", "from_class": 1}, "from_class"),
        ({"name": "x"}, "path"),
    ],
)
def test_a_direction_that_is_neither_file_nor_move_is_refused(direction, reason):
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(AnyDirection).validate_python(direction)
