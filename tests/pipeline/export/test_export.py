"""Codes go out as other tools read them, and the same files come in again as a start."""

import csv
import pickle

import numpy as np
import pytest
import torch

from pipeline.export.formats import FORMATS
from pipeline.publish.index import published, read_index
from stages.invert import Invert
from tests.pipeline.conftest import Committed, compute

KEYS = [f"train-a-{i:03d}" for i in range(5)] + [f"held-b-{i:03d}" for i in range(3)]


def recorded(run: Committed) -> dict[str, np.ndarray]:
    """Return the stored w_plus of every image of a run by key."""
    plan = run.plan()
    step = plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert]
    units = plan.units(plan.inventories(), plan.everything)
    return {key: record.row["w_plus"] for unit in units for key, record in run.records(step, unit).items()}


@pytest.mark.parametrize("name", ["npy", "pt"])
def test_codes_are_one_array_of_all_images_with_a_table_of_keys(committed, invertmill, name: str):
    target = committed.folder / f"codes.{name}"
    code, output, errors = invertmill("export", committed.folder / "run.yaml", "--format", name, "--out", target)
    assert code == 0, errors
    assert "w_plus of 8 images [8, 8, 8]" in output
    assert errors == ""
    w_plus = np.load(target) if name == "npy" else torch.load(target, weights_only=True).numpy()
    assert (w_plus.shape, w_plus.dtype) == ((8, 8, 8), np.float32)
    with (committed.folder / "codes.csv").open() as table:
        rows = list(csv.DictReader(table))
    stored = recorded(committed)
    order = [row["key"] for row in read_index(committed.plan().ledger, published(committed.plan().ledger))]
    assert [row["key"] for row in rows] == order
    assert sorted(order) == sorted(KEYS)
    for row, codes in zip(rows, w_plus, strict=True):
        assert row["shard"].removesuffix(".tar").endswith(row["key"][:-4])
        np.testing.assert_array_equal(codes, stored[row["key"]].astype(np.float32))


def test_deltas_that_are_left_out_are_named(committed, invertmill):
    hard = "refine_maps.threshold=1e-9"
    plan = committed.plan(hard)
    for step in plan.map_steps(plan.ledger.receipt(plan.train_segmenter())):
        compute(plan, step)
    committed.index(hard).publish()
    code, _, errors = invertmill("export", committed.folder / "run.yaml", "--out", committed.folder / "codes.npy")
    assert code == 0
    assert "the images have deltas or tuned weights, which this format leaves out" in errors


def test_pti_finds_a_pivot_of_every_image_in_its_own_folder(committed, invertmill):
    target = committed.folder / "pivots"
    assert invertmill("export", committed.folder / "run.yaml", "--format", "pti", "--out", target)[0] == 0
    for key, codes in recorded(committed).items():
        pivot = torch.load(target / key / "0.pt", weights_only=True)
        assert pivot.shape == (1, 8, 8)
        np.testing.assert_array_equal(pivot[0].numpy(), codes.astype(np.float32))


@pytest.mark.parametrize("name", ["npy", "pt"])
def test_exported_codes_are_a_start(committed, invertmill, name: str):
    target = committed.folder / f"codes.{name}"
    invertmill("export", committed.folder / "run.yaml", "--format", name, "--out", target)
    before = recorded(committed)
    start = f"invert.start={{kind: bundle, codes: codes.{name}}}"
    plan = committed.plan(start, "invert.schedule={steps: 1, learning_rate: 0.000001}")
    step = plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))[Invert]
    assert pickle.loads(pickle.dumps(step.stage)) == step.stage
    compute(plan, step)
    for unit in plan.units(plan.inventories(), plan.everything):
        for key, record in committed.records(step, unit).items():
            np.testing.assert_allclose(record.row["w_plus"], before[key], rtol=5e-3, atol=5e-3)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(committed, invertmill):
    target = committed.folder / "codes.npy"
    assert "no format 'csv'; choose among dataset, npy, pt, pti" in invertmill(
        "export", committed.folder / "run.yaml", "--format", "csv", "--out", target
    )[2].replace("\n", " ")
    target.write_bytes(b"mine")
    code, _, errors = invertmill("export", committed.folder / "run.yaml", "--out", target)
    assert (code, target.read_bytes()) == (2, b"mine")
    assert "exists already" in errors
    (committed.folder / "store/published.json").unlink()
    code, _, errors = invertmill("export", committed.folder / "run.yaml", "--out", committed.folder / "other.npy")
    assert code == 2
    assert "holds no published result" in errors
    assert not (committed.folder / "other.npy").exists()


def test_every_format_has_a_default_target_of_its_own():
    targets = [kind.target for kind in FORMATS.values()]
    assert len(set(targets)) == len(targets)
