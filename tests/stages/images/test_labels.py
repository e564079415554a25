"""The class of an image: read from its shard or configured, and where inversions start that know it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from generators.checkpoints import save_generator
from generators.classes import mean_w_of_class
from generators.families.biggan_deep import BigGANDeep
from generators.generator import Generator
from generators.prior import draw_w, gaussianize
from generators.source import GeneratorSource
from stages.base.errors import BadSampleError
from stages.base.stage import Record, Rejected, Sample
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.images.labels import Label, LabelMember, check_label, class_of
from stages.inversion.starts import learnt
from stages.inversion.viewer import Photograph
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from stages.trade_off import TradeOff
from tests import tiny
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.published import tiny as tiny_stylegan2

CPU = torch.device("cpu")
CLASSES = 7
LABELS = TypeAdapter(Label)


def member(**members: bytes) -> Sample:
    return Sample("k", "shard", members)


@pytest.mark.parametrize(
    ("label", "members", "wanted"),
    [
        (None, {}, None),
        (3, {}, 3),
        ({"member": "cls"}, {"cls": b"5"}, 5),
        ({}, {"cls": b" 0\n"}, 0),
        ({"member": "json", "field": "class"}, {"json": b'{"class": 6}'}, 6),
        ({"member": "json", "field": "class"}, {"json": b'{"class": "6"}'}, 6),
        ({"member": "json", "field": "a.b"}, {"json": b'{"a": {"b": 2}}'}, 2),
    ],
)
def test_a_class_is_read_as_it_is_written(label, members, wanted):
    assert class_of(member(**members), LABELS.validate_python(label) if label is not None else None, CLASSES) == wanted


@pytest.mark.parametrize(
    ("label", "members", "reason"),
    [
        ({}, {"png": b""}, "no class: there is no member 'cls', got png; add one"),
        ({}, {"cls": b"7"}, "k.cls is '7': the class must be an integer from 0 to 6"),
        ({}, {"cls": b"-1"}, "k.cls is '-1': the class must be"),
        ({}, {"cls": b"cat"}, "k.cls is 'cat': the class must be"),
        ({}, {"cls": b""}, "k.cls is '': the class must be"),
        ({}, {"cls": b"9" * 5000}, "the class must be"),
        ({}, {"cls": b"\xff"}, "k.cls is not text"),
        ({"member": "json", "field": "c"}, {"json": b"{"}, "k.json is not JSON"),
        ({"member": "json", "field": "c"}, {"json": b"[" * 99_999}, "k.json is not JSON"),
        ({"member": "json", "field": "c"}, {"json": b"{}"}, "no class: k.json field c is missing"),
        ({"member": "json", "field": "c.d"}, {"json": b'{"c": 1}'}, "no class: k.json field c.d is missing"),
        ({"member": "json", "field": "c"}, {"json": b'{"c": true}'}, "k.json field c is 'True'"),
        ({"member": "json", "field": "c"}, {"json": b'{"c": 1.5}'}, "k.json field c is '1.5'"),
        ({"member": "json", "field": "c"}, {"json": b'{"c": null}'}, "k.json field c is 'None'"),
    ],
)
def test_a_class_that_cannot_be_is_a_fault_of_its_sample(label, members, reason: str):
    with pytest.raises(BadSampleError) as caught:
        class_of(member(**members), LABELS.validate_python(label), CLASSES)
    assert reason in str(caught.value)


@pytest.mark.parametrize("label", [-1, True, 1.5, "7", {"field": 3}, {"name": "cls"}])
def test_a_label_that_is_neither_is_refused(label):
    with pytest.raises(ValidationError):
        LABELS.validate_python(label)


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (3, 0, "the generator is unconditional"),
        (LabelMember(), 0, "the generator is unconditional"),
        (7, 7, "the generator has the classes 0 to 6, got 7"),
    ],
)
def test_a_label_that_the_generator_cannot_have_is_refused(label, classes: int, message: str):
    with pytest.raises(ValueError, match=message):
        check_label(label, classes)


# ---- stages


def generators(folder: Path, name: str) -> tuple[Path, Generator]:
    if name == "biggan":
        generator = tiny_biggan()
        return write_folder(folder, generator), generator
    conditional = tiny_stylegan2(tiny.SIDE_PX, c_dim=CLASSES, z_dim=8, w_dim=8, channel_max=8)
    folder.mkdir()
    save_generator(conditional, folder / "g.safetensors", about="random")
    return folder / "g.safetensors", conditional


@pytest.fixture(scope="module", params=["stylegan2", "biggan"])
def conditional(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    networks = tiny.write_networks(folder / "networks")
    checkpoint, generator = generators(folder / "g", request.param)
    settings = {
        "generator": GeneratorSource(checkpoint=checkpoint),
        "perceptual": PerceptualSource(backbone="small", weights=networks["perceptual"]),
        "objective": Objective(shrinkage=1e-2),
        "schedule": Schedule(steps=2, learning_rate=0.01),
    }
    return generator, settings


def sample(number: int, text: bytes | None = None, spaces: int = 2) -> Sample:
    assignment_HW = np.repeat(np.arange(tiny.SIDE_PX, dtype=np.uint8)[None] % spaces, tiny.SIDE_PX, axis=0)
    refined = Record(f"s{number}", {"error": 0.1}, {"assignment_HW": assignment_HW})
    members = {"png": tiny.picture(number)} | ({} if text is None else {"cls": text})
    return Sample(f"s{number}", "shard", members, {"refine_maps": refined})


def start_of(stage: Invert, label: int | None) -> torch.Tensor:
    inverter = stage.inverter(CPU)
    image = torch.rand(3, tiny.SIDE_PX, tiny.SIDE_PX, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return inverter.item(Photograph(image, image, label=label), {}).start.w_plus[0, 0]


def test_an_inversion_starts_at_the_mean_of_its_class(conditional):
    generator, settings = conditional
    stage = Invert(**settings, label=LabelMember())
    for label in (0, 5):
        one_hot = torch.nn.functional.one_hot(torch.tensor(label), CLASSES).float()
        wanted = draw_w(generator, 20_000, seed=3, label=one_hot).mean(dim=0)
        assert (start_of(stage, label) - wanted).abs().max() < 0.05 * wanted.abs().max() + 0.05
        if isinstance(generator, BigGANDeep):
            torch.testing.assert_close(start_of(stage, label)[6:], generator.embeddings.weight[:, label])
    assert not torch.allclose(start_of(stage, 0), start_of(stage, 5), atol=1e-3)


def prior_mean_of(stage: Invert, label: int | None) -> torch.Tensor | None:
    image = torch.zeros(3, tiny.SIDE_PX, tiny.SIDE_PX)
    return stage.inverter(CPU).item(Photograph(image, image, label=label), {}).target.prior_mean


def test_the_prior_of_an_image_has_the_mean_of_its_class(conditional):
    generator, settings = conditional
    stage = Invert(**settings, label=LabelMember())
    for label in (0, 5):
        one_hot = torch.nn.functional.one_hot(torch.tensor(label), CLASSES).float()
        wanted = gaussianize(draw_w(generator, 10_000, label=one_hot).double(), generator.gaussian_slope).mean(dim=0)
        torch.testing.assert_close(prior_mean_of(stage, label)[0], wanted)
    assert prior_mean_of(Invert(**settings), None) is None
    assert prior_mean_of(Invert(**settings, label=5, class_prior=False), 5) is None


def test_a_strong_prior_draws_each_image_of_a_batch_to_its_class(conditional):
    generator, settings = conditional
    strong = {"objective": Objective(shrinkage=1e-2, lambda_gaussian=10.0), "schedule": Schedule(steps=6)}
    stage = Invert(**settings | strong, label=LabelMember(), batch=2)
    samples = [sample(number, text) for number, text in enumerate((b"0", b"5"))]
    for taken, record in zip(samples, stage.setup(CPU)(samples), strict=True):
        (alone,) = stage.setup(CPU)([taken])
        assert record.row["loss"] == pytest.approx(alone.row["loss"], rel=1e-4)
        shared = next(iter(stage.model_copy(update={"class_prior": False}).setup(CPU)([taken])))
        away = [
            float((torch.from_numpy(one.row["w_plus"]).float() - mean_w_of_class(generator, one.row["label"])).norm())
            for one in (record, shared)
        ]
        assert away[0] < away[1]


def test_a_learnt_start_is_that_of_the_class(conditional):
    _, settings = conditional
    stage = Invert(**settings, label=LabelMember(), start_samples=8)
    first, second = start_of(stage, 1), start_of(stage, 2)
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(start_of(stage, 1), first)
    assert torch.equal(start_of(Invert(**settings, label=1, start_samples=8), 1), first)


def test_few_learnt_starts_are_kept(conditional):
    _, settings = conditional
    stage = Invert(**settings, label=LabelMember(), start_samples=4)
    for label in range(CLASSES):
        start_of(stage, label)
    assert len(learnt._kept) <= learnt.KEPT


def test_without_labels_a_conditional_generator_starts_at_the_mean_of_all_classes(conditional):
    _, settings = conditional
    stage = Invert(**settings)
    (record,) = stage.setup(CPU)([sample(0)])
    assert isinstance(record, Record)
    assert "label" not in record.row
    assert torch.equal(start_of(stage, None), stage.inverter(CPU).prior.mean_w.float())


def test_labels_of_a_batch_are_mixed_and_change_no_neighbour(conditional):
    _, settings = conditional
    stage = pickle.loads(pickle.dumps(Invert(**settings, label=LabelMember(), batch=4)))
    texts = [b"0", b"4", b"9", b"0", None, b"6"]
    samples = [sample(number, text) for number, text in enumerate(texts)]
    together = list(stage.setup(CPU)(samples))
    assert [record.key for record in together] == [one.key for one in samples]
    assert [isinstance(record, Rejected) for record in together] == [False, False, True, False, True, False]
    assert [record.row["label"] for record in together if isinstance(record, Record)] == [0, 4, 0, 6]
    for one, record in zip(samples, together, strict=True):
        (alone,) = Invert(**settings, label=LabelMember(), batch=1).setup(CPU)([one])
        if isinstance(record, Record):
            np.testing.assert_allclose(record.row["w_plus"], alone.row["w_plus"], atol=2e-3)
            assert record.row["loss"] == pytest.approx(alone.row["loss"], rel=1e-4)
        else:
            assert record == alone


def test_another_label_gives_another_inversion(conditional):
    _, settings = conditional
    first, second = (next(iter(Invert(**settings, label=label).setup(CPU)([sample(1)]))) for label in (0, 5))
    assert not np.allclose(first.row["w_plus"], second.row["w_plus"], atol=1e-2)


def test_error_maps_know_the_class_too(conditional):
    _, settings = conditional
    stage = ErrorMaps(**settings, label=LabelMember(member="json", field="class"))
    told = [Sample(f"s{i}", "x", {"png": tiny.picture(i), "json": json.dumps({"class": i}).encode()}) for i in (2, 8)]
    record, rejected = stage.setup(CPU)(told)
    assert record.row["label"] == 2
    assert rejected == Rejected(
        "s8", "s8.json field class is '8': the class must be an integer from 0 to 6; correct it in the shard"
    )


def test_a_trade_off_knows_the_class_too(conditional):
    generator, settings = conditional
    warm = Schedule(steps=1)
    stage = TradeOff(**settings, label=LabelMember(), thresholds=(0.5, 0.2), warm=warm)
    samples = [sample(number, text) for number, text in enumerate((b"5", b"9"))]
    error_LHW = np.full((len(generator.spaces), tiny.SIDE_PX, tiny.SIDE_PX), 0.3, np.float32)
    for one in samples:
        one.records["predict_maps"] = Record(one.key, {}, {"error_LHW": error_LHW})
        one.records["refine_maps"].arrays["labels_HW"] = np.zeros((tiny.SIDE_PX, tiny.SIDE_PX), np.int32)
    record, rejected = stage.setup(CPU)(samples)
    assert isinstance(record, Record)
    assert rejected == Rejected(
        "s1", "s1.cls is '9': the class must be an integer from 0 to 6; correct it in the shard"
    )
    others = [stage.model_copy(update={"label": label}).setup(CPU)(samples[:1]) for label in (5, 0)]
    same, different = (next(iter(found)).row["psnr_db"] for found in others)
    np.testing.assert_array_equal(same, record.row["psnr_db"])
    assert not np.allclose(different, record.row["psnr_db"], atol=1e-3)


@pytest.mark.parametrize("label", [0, LabelMember()])
def test_an_unconditional_generator_has_no_labels(tmp_path: Path, label):
    networks = tiny.write_networks(tmp_path)
    stage = Invert(
        generator=GeneratorSource(checkpoint=networks["generator"]),
        perceptual=PerceptualSource(backbone="small", weights=networks["perceptual"]),
        label=label,
    )
    with pytest.raises(ValueError, match="unconditional"):
        stage.setup(CPU)
