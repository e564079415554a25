"""An exported data set: complete in itself, and opened by stock tools."""

import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import webdataset
import yaml

from infra.bundles import read_arrays, read_rows
from pipeline.data.records import ARRAYS, ROWS
from pipeline.export.shards import ShardWriter, members_of
from tests import tiny
from tests.pipeline.conftest import Committed

pytestmark = pytest.mark.filterwarnings(  # webdataset leaves the files it has read to the garbage collector
    "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
)
KEYS = [f"held-b-{i:03d}" for i in range(3)] + [f"train-a-{i:03d}" for i in range(5)]


def export(invertmill, run: Committed, folder: Path, *more: str) -> tuple[int, str, str]:
    return invertmill("export", run.folder / "run.yaml", "--format", "dataset", "--out", folder, *more)


@pytest.fixture
def exported(committed, invertmill, tmp_path) -> Path:
    """The exported data set of a run, whose store is gone."""
    before = committed.files()
    status, output, errors = invertmill(
        "export", committed.folder / "run.yaml", "--format", "dataset", "--out", tmp_path / "cars"
    )
    assert status == 0, errors
    assert "8 images with codes and card" in output
    assert "leaves out" not in errors
    assert committed.files() == before, "an export writes nothing into the store"
    return tmp_path / "cars"


def stored(run: Committed) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Return w_plus and arrays of every image in the store of a run."""
    plan = run.plan()
    step = plan.map_steps(plan.ledger.receipt(plan.train_segmenter())).last
    found = {}
    for receipt in plan.ledger.receipts(step.stage.name, step.fingerprint):
        rows = {row["key"]: row["w_plus"] for row in read_rows(plan.ledger.read_file(receipt, ROWS))}
        arrays = dict(read_arrays(plan.ledger.read_file(receipt, ARRAYS)))
        found |= {key: (rows[key], arrays[key]) for key in rows}
    return found


def test_the_exported_codes_are_those_of_the_store_to_the_bit(exported, committed):
    rows = ds.dataset(exported / "data").to_table().to_pylist()
    assert [row["key"] for row in rows] == KEYS
    wanted = stored(committed)
    for row in rows:
        w_plus, arrays = wanted[row["key"]]
        assert np.array_equal(np.asarray(row["w_plus"], np.float16), w_plus)
        with (exported / row["codes_tar"]).open("rb") as tar:
            tar.seek(row["codes_offset"])
            found = np.load(io.BytesIO(tar.read(row["codes_size"])), allow_pickle=False)
        assert sorted(found.files) == sorted(arrays)
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
        assert row["invert.psnr_db"] > 0
        assert row["role"] in ("supervision", "held_out")


def test_stock_webdataset_reads_the_tars(exported):
    tars = sorted(str(path) for path in (exported / "codes").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    gc.collect()
    assert [sample["__key__"] for sample in samples] == KEYS


def test_hugging_face_datasets_opens_the_folder(exported, tmp_path):
    pytest.importorskip("datasets")
    program = (
        "import json, sys; from datasets import load_dataset; d = load_dataset(sys.argv[1], split='train');"
        "d = d.with_format('numpy');"
        "print(json.dumps([d['key'].tolist() if hasattr(d['key'], 'tolist') else list(d['key']),"
        " list(d[0]['w_plus'].shape), str(d[0]['w_plus'].dtype)]))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(exported)], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    keys, shape, dtype = json.loads(ran.stdout.splitlines()[-1])
    assert keys == KEYS
    assert (shape, dtype) == ([4, 8], "float16") or len(shape) == 2


def test_the_card_of_an_export_names_its_own_files(exported):
    text = (exported / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": ["data/*.parquet"]}]
    assert "card/pictures.png" in text
    assert (exported / "card/pictures.png").is_file()
    assert "bundles/" not in text


def test_a_folder_with_something_in_it_is_refused(committed, invertmill, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    for force in ((), ("--force",)):
        status, _, errors = export(invertmill, committed, tmp_path / "full", *force)
        assert (status, str(tmp_path / "full") in errors) == (2, True)
    assert "is not an empty folder; choose another, or remove it" in errors
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_damaged_bundle_is_named_and_no_card_makes_the_folder_look_complete(committed, invertmill, tmp_path):
    tiny.truncated(committed.file("bundles/invert/*/held-b*/*/arrays.tar"), 0.5)
    status, _, errors = invertmill(
        "export", committed.folder / "run.yaml", "--format", "dataset", "--out", tmp_path / "cars"
    )
    assert status == 2
    assert "arrays.tar" in errors
    assert not (tmp_path / "cars/README.md").exists()


def test_a_tar_ends_before_a_key_that_it_has_and_when_it_is_large(tmp_path):
    writer = ShardWriter(tmp_path, most_bytes=3000)
    placed = [writer.add(key, {"npz": key.encode() * 600}) for key in ("a", "b", "a", "c", "d")]
    writer.close()
    assert [place.tar for place in placed] == ["000000.tar", "000000.tar", "000001.tar", "000001.tar", "000002.tar"]
    for place, key in zip(placed, "abacd", strict=True):
        data = (tmp_path / place.tar).read_bytes()
        assert data[place.offset : place.offset + place.size] == key.encode() * 600
    assert [key for key, _ in members_of((tmp_path / "000001.tar").read_bytes())] == ["a", "c"]
