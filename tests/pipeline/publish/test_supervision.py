"""The supervision as a dataset of its own: what it says, and that stock tools read it without this project."""

import gc
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import webdataset
from PIL import Image

from infra.shards.shards import write_shard
from pipeline.config import Supervision
from pipeline.data.units import Selection
from pipeline.operations.verify import verify_run
from pipeline.publish.index import POINTER, published_supervision
from tests import tiny
from tests.pipeline.conftest import COUNTS, commit_all, compute

pytestmark = pytest.mark.filterwarnings(  # webdataset leaves the files it has read to the garbage collector
    "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
)

DOCUMENT = Path(__file__).parents[3] / "docs/supervision.md"
TRAINED = [f"train-a-{i:03d}" for i in range(5)]
HELD_OUT = [f"held-b-{i:03d}" for i in range(3)]


def read_tars(paths):
    """Return the samples of tars as stock webdataset reads them, and its files closed."""
    found = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
    gc.collect()
    return found


def pointer(run):
    return json.loads((run.folder / "store" / POINTER).read_text())["supervision"]


def rows(run):
    files = [str(run.folder / "store" / name) for name in pointer(run)["index"]]
    with duckdb.connect() as connection:
        found = connection.execute("select * from read_parquet(?) order by key", [files])
        names = [one[0] for one in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def listed(run):
    return {one["shard"]: one for one in json.loads((run.folder / "store" / pointer(run)["shards"]).read_text())}


def test_the_index_has_one_row_for_every_supervised_sample(committed):
    found = {row["key"]: row for row in rows(committed)}
    assert list(found) == HELD_OUT + TRAINED
    assert pointer(committed)["samples"] == 8
    assert {found[key]["role"] for key in TRAINED} == {"supervision"}
    assert {found[key]["role"] for key in HELD_OUT} == {"held_out"}
    assert {row["shard"] for row in found.values()} == {"train-a.tar", "held-b.tar"}


def test_a_row_says_how_good_each_space_is_and_which_networks_say_so(committed):
    plan = committed.plan()
    for row in rows(committed):
        assert row["outcome"] == "recorded"
        for space in ("w_plus", "f2", "f4"):
            assert row[f"psnr_db_{space}"] > 0
            assert row[f"lpips_{space}"] > 0
        assert row["generator"] == plan.generator.digest
        assert row["perceptual"] == "lpips-style small (not LPIPS-VGG)"
        assert re.fullmatch("[0-9a-f]{16}", row["perceptual_digest"])


def test_stock_webdataset_reads_the_arrays_of_every_row(committed):
    found_rows = rows(committed)
    tars = {committed.folder / "store" / row["arrays"] for row in found_rows}
    found = {one["__key__"]: one for one in read_tars(sorted(tars))}
    for row in found_rows:
        assert row["member"] == f"{row['key']}.error_maps.npz"
        with np.load(io.BytesIO(found[row["key"]]["error_maps.npz"]), allow_pickle=False) as arrays:
            assert arrays["spaces"].tolist() == list(tiny.SPACES)
            assert arrays["error_LHW"].shape == (3, tiny.SIDE_PX, tiny.SIDE_PX)
            assert arrays["loss_LK"].shape == (3, len(arrays["loss_step"]))


def test_images_and_error_maps_are_listed_in_one_order(committed):
    assert listed(committed)["train-a.tar"]["held_out"] == []
    assert listed(committed)["held-b.tar"]["held_out"] == HELD_OUT
    paths = [committed.folder / "store" / tar for tar in listed(committed)["train-a.tar"]["tars"]]
    assert len(paths) == 2
    assert [one["__key__"] for one in read_tars(paths)] == TRAINED


def test_the_documents_example_reads_images_of_other_formats(fresh):
    sizes = []
    for name, count in COUNTS.items():
        samples = tiny.samples(name, count)
        for sample, extension in zip(samples, itertools.cycle(("jpg", "webp")), strict=False):
            sample[extension] = encoded(sample.pop("png"), extension)
            sizes += [len(sample[extension])] if name.startswith("train") else []
        write_shard(fresh.folder / f"shards/{name}.tar", samples)
    commit_all(fresh.plan())
    fresh.index().publish()
    ran = run_example(fresh)
    assert ran.returncode == 0, ran.stderr
    assert [int(line.split()[0]) for line in ran.stdout.splitlines()] == sizes


def encoded(png, extension):
    """Return a PNG in another format."""
    sink = io.BytesIO()
    Image.open(io.BytesIO(png)).save(sink, {"jpg": "jpeg"}.get(extension, extension))
    return sink.getvalue()


def run_example(run):
    """Run the example of the document in the folder of a run."""
    (example,) = re.findall("```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    command = [sys.executable, "-I", "-W", "error", "-c", example]
    return subprocess.run(command, cwd=run.folder, capture_output=True, text=True, check=False)


def test_the_documents_example_runs_without_this_project(committed):
    ran = run_example(committed)
    assert ran.returncode == 0, ran.stderr
    sizes = [len(sample["png"]) for sample in tiny.samples("train-a", 5)]
    spaces, shape = list(tiny.SPACES), (3, tiny.SIDE_PX, tiny.SIDE_PX)
    assert ran.stdout.splitlines() == [f"{size} {spaces} {shape}" for size in sizes]


def test_the_document_names_every_column_and_array(committed):
    text = DOCUMENT.read_text()
    for name in rows(committed)[0]:
        shown = re.sub("(psnr_db|lpips)_.*", r"\1_SPACE", name)
        assert f"`{shown}`" in text, name
    for name in ("spaces", "error_LHW", "loss_LK", "loss_step", "image_LHW3"):
        assert f"`{name}`" in text


def test_a_quarantined_sample_has_a_row_with_its_reason_and_no_arrays(fresh):
    write_shard(fresh.folder / "shards/train-a.tar", tiny.broken_samples("train-a", 4))
    commit_all(fresh.plan())
    fresh.index().publish()
    (bad,) = [row for row in rows(fresh) if row["outcome"] == "quarantined"]
    assert bad["key"] == "train-a-001"
    assert bad["reason"].startswith("error_maps: ")
    assert (bad["arrays"], bad["member"], bad["lpips_f2"]) == (None, None, None)


def test_another_threshold_keeps_the_index_of_the_supervision(committed):
    before = pointer(committed)
    for step in committed.index("refine_maps.threshold=0.9").steps:
        compute(committed.plan("refine_maps.threshold=0.9"), step)
    committed.index("refine_maps.threshold=0.9").publish()
    assert pointer(committed) == before


def test_new_data_adds_rows_and_leaves_the_others(committed):
    before = {row["key"]: row for row in rows(committed)}
    tiny.write_shards(committed.folder / "shards", {"train-late": 2})
    commit_all(committed.plan())
    committed.index().publish()
    after = {row["key"]: row for row in rows(committed)}
    assert after.keys() - before.keys() == {"train-late-000", "train-late-001"}
    assert {key: after[key] for key in before} == before


def test_growing_data_keeps_the_choice():
    selection = Selection(Supervision(share=0.3, held_out_share=0.2))
    keys = [f"image-{i:05d}" for i in range(3000)]
    before = {key: selection.role("cars-000000.tar", key) for key in keys[:1000]}
    after = {key: selection.role(f"cars-{i % 7:06d}.tar", key) for i, key in enumerate(keys)}
    assert {key: after[key] for key in before} == before
    assert set(before.values()) == {None, "supervision", "held_out"}


def test_damage_to_the_index_is_found(committed):
    name = pointer(committed)["shards"]
    (committed.folder / "store" / name).write_text("[]")
    problems, _ = verify_run(committed.plan())
    assert len(problems) == 1
    assert "shards.json" in problems[0].what


@pytest.mark.parametrize("part", ["receipt", "index"])
def test_what_the_pointer_names_is_there(committed, part):
    named = pointer(committed)[part]
    for name in [named] if isinstance(named, str) else named:
        assert (committed.folder / "store" / name).is_file()
    assert published_supervision(committed.plan().ledger).info["samples"] == 8
