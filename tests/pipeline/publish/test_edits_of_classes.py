"""A run of a conditional generator: classes from the shard, from error maps to the index of edits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from generators.checkpoints import save_generator
from infra.shards.shards import write_shard
from pipeline.data.records import read_records
from pipeline.operations.verify import verify_run
from pipeline.publish.index import published_own, read_index
from stages.edit import Edit
from stages.error_maps import ErrorMaps
from stages.invert import Invert
from tests import tiny
from tests.generators.published import tiny as tiny_stylegan2
from tests.pipeline.conftest import LIGHT, Committed, commit_all

CLASSES = {"train-a": [b"0", b"3", b"6", b"3", b"0"], "held-b": [b"2", None, b"7"]}
REASONS = {
    "held-b-001": "no class: there is no member 'cls', got occluder.png, png, seg.png; add one, or correct label",
    "held-b-002": "held-b-002.cls is '7': the class must be an integer from 0 to 6; correct it in the shard",
}
KNOWN = {
    f"{shard}-{number:03d}": int(label)
    for shard, labels in CLASSES.items()
    for number, label in enumerate(labels)
    if label is not None and int(label) < 7
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Committed:
    folder = tmp_path_factory.mktemp("classes")
    tiny.write_networks(folder / "networks")
    generator = tiny_stylegan2(tiny.SIDE_PX, c_dim=7, z_dim=8, w_dim=8, channel_max=8)
    save_generator(generator, folder / "networks/generator.safetensors", about="random")
    (folder / "shards").mkdir()
    for name, labels in CLASSES.items():
        taken = tiny.samples(name, len(labels))
        members = [one | ({} if label is None else {"cls": label}) for one, label in zip(taken, labels, strict=True)]
        write_shard(folder / f"shards/{name}.tar", members)
    edit = {"directions": [{"name": "to-five", "to_class": 5}], "magnitudes": [0, 1], "format": "png"}
    networks = {name: Path(f"networks/{name}.safetensors") for name in ("generator", "perceptual")}
    tiny.config(folder, networks, train_segmenter=LIGHT, label={"member": "cls"}, edit=edit)
    threads = torch.get_num_threads()
    try:
        made = Committed(folder)
        commit_all(made.plan())
        made.index().publish()
    finally:
        torch.set_num_threads(threads)
    return made


def records(run: Committed, stage: type) -> dict[str, object]:
    plan = run.plan()
    steps = [plan.error_maps(), *plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))]
    (step,) = [step for step in steps if step.stage.name == stage.name]
    found = {}
    for receipt in plan.ledger.receipts(step.stage.name, step.fingerprint):
        found |= read_records(plan.ledger.read_file, receipt, arrays=(), files=stage is Edit)
    return found


@pytest.mark.parametrize("stage", [ErrorMaps, Invert])
def test_inversions_know_the_class_of_their_sample(run, stage):
    assert {key: record.row["label"] for key, record in records(run, stage).items()} == KNOWN


def test_samples_whose_class_is_missing_or_out_of_range_are_quarantined_and_their_unit_is_not_lost(run):
    ledger = run.plan().ledger
    rows = read_index(ledger, published_own(ledger, Edit))
    quarantined = {row["key"]: row["reason"] for row in rows if row["outcome"] == "quarantined"}
    assert set(quarantined) == set(REASONS)
    for key, reason in quarantined.items():
        assert REASONS[key] in reason
    assert {row["key"] for row in rows if row["outcome"] == "recorded"} == set(KNOWN)
    problems, _ = verify_run(run.plan())
    assert problems == []


def test_the_index_has_the_change_of_each_move(run):
    ledger = run.plan().ledger
    for row in read_index(ledger, published_own(ledger, Edit)):
        if row["outcome"] == "recorded":
            changes = [row[f"change_inside_{space}"] for space in ("w_plus", "f2", "f4")]
            assert all((change > 0) is (row["magnitude"] > 0) for change in changes if change is not None)


def test_a_rendered_image_is_the_edit_by_zero(run, invertmill, tmp_path):
    status, *_ = invertmill("render", run.folder / "run.yaml", "train-a-001", "--out", tmp_path)
    assert status == 0
    (tmp_path / "zero.png").write_bytes(records(run, Edit)["train-a-001"].files["to-five.0.png"])
    rendered, zero = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("train-a-001.png", "zero.png"))
    assert np.abs(rendered - zero).max() <= 1


def test_a_move_from_the_own_class_without_classes_is_refused_before_any_work(run, invertmill):
    before = run.files()
    for command in ("plan", "run", "edit"):
        status, output, errors = invertmill(command, run.folder / "run.yaml", "--set", "label=null")
        assert status == 2
        text = " ".join((output + errors).split())
        assert "to-five moves images from their own class, and `label` does not give it: set label, or" in text
    assert run.files() == before


def test_a_class_that_the_generator_lacks_is_refused_before_any_work(run, invertmill):
    setting = "edit.directions=[{name: x, to_class: 7}]"
    status, _, errors = invertmill("plan", run.folder / "run.yaml", "--set", setting)
    assert status == 2
    assert "edit 'x': the generator has the classes 0 to 6, got 7" in " ".join(errors.split())


def test_where_classes_come_from_moves_every_fingerprint_that_uses_them_and_no_other(run):
    plan, plain = run.plan(), run.plan("label=null", "edit=null")
    assert plan.error_maps().fingerprint != plain.error_maps().fingerprint
    segmenter = plan.ledger.receipt(plan.train_segmenter())
    with_classes, without = (p.map_steps(segmenter).fingerprints for p in (plan, plain))
    assert {name for name in without if with_classes[name] != without[name]} == {Invert.name}


def test_the_formula_of_the_authors_is_another_edit_and_the_default_none(run):
    segmenter = run.plan().ledger.receipt(run.plan().train_segmenter())
    default, told, published = (
        run.plan(*settings).map_steps(segmenter).fingerprints[Edit.name]
        for settings in ((), ("edit.published=false",), ("edit.published=true",))
    )
    assert default == told != published
