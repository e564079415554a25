"""Reading a result back: by key, in order, in batches; from any store that holds a copy, and without Ray."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import load_generator
from infra.errors import BundleError
from infra.receipts import Ledger
from infra.stores.folder import FolderStore
from pipeline import open_bundles
from pipeline.bundles.catalogue import open_catalogue
from pipeline.bundles.reader import Bundles
from stages.maps.region import Region, fit, psnr_db
from tests import tiny

ROOT = Path(__file__).parents[3]


class Recording(FolderStore):
    """A folder that notes what was read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[tuple[str, int, int | None]] = []

    def read(self, name, start=0, stop=None, version=None):
        self.reads.append((name.rpartition("/")[2], start, stop))
        return super().read(name, start, stop, version)


def photograph(key: str) -> torch.Tensor:
    pixels = tiny.pixels_of(int(key.rpartition("-")[2]))
    return fit(pixels, Region.whole(tiny.SIDE_PX))[None]


def test_the_keys_are_those_of_the_inverted_images(store):
    bundles = open_bundles(store)
    assert len(bundles) == 8
    assert bundles.keys() == [f"held-b-{i:03d}" for i in range(3)] + [f"train-a-{i:03d}" for i in range(5)]
    assert [image.key for image in bundles] == bundles.keys()
    assert "held-b-001" in bundles
    assert "nobody" not in bundles


def test_an_image_by_key_is_the_one_that_iterating_meets(store):
    bundles = open_bundles(str(store))
    for met in bundles:
        image = bundles[met.key]
        assert image.row.keys() == met.row.keys()
        assert image.row["psnr_db"] == met.row["psnr_db"]
        assert torch.equal(image.codes.w_plus, met.codes.w_plus)
        assert image.codes.deltas.keys() == met.codes.deltas.keys()
        for space, delta in image.codes.deltas.items():
            assert torch.equal(delta, met.codes.deltas[space])
        np.testing.assert_array_equal(image.assignment, met.assignment)


def test_the_image_of_stored_codes_has_the_psnr_of_its_row(store, first_run):
    generator = load_generator(first_run / "networks/generator.safetensors")
    for batch in open_bundles(store).batches(3):
        images = generator.synthesize(batch.w_plus, batch.deltas, batch.masks).clamp(-1, 1)
        for key, row, image in zip(batch.keys, batch.rows, images, strict=True):
            assert float(psnr_db(image[None], photograph(key))) == pytest.approx(row["psnr_db"], abs=1e-3)


def test_batches_hold_every_image_once_and_the_last_is_smaller(store):
    batches = list(open_bundles(store).batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert [key for batch in batches for key in batch.keys] == open_bundles(store).keys()
    assert batches[0].assignments.shape == (3, tiny.SIDE_PX, tiny.SIDE_PX)
    assert batches[2].to("cpu").w_plus.shape == batches[2].w_plus.shape


def test_one_image_takes_one_ranged_read_and_its_row_one_more(store):
    _, pointer, catalogue = open_catalogue(str(store))
    recording = Recording(store)
    bundles = Bundles(Ledger(recording), pointer, catalogue)
    image = bundles["train-a-003"]
    assert image.codes.w_plus.shape[0] == 1
    assert image.assignment.shape == (tiny.SIDE_PX, tiny.SIDE_PX)
    ((name, start, stop),) = recording.reads
    assert name == "arrays.tar"
    assert 0 < start < stop
    assert image.row["steps"] == 4
    assert [read[0] for read in recording.reads if not read[0].endswith(".json")] == ["arrays.tar", "records.parquet"]


def test_codes_of_version_1_are_read_by_key_and_in_order(earlier_store):
    bundles = open_bundles(earlier_store)
    keys = bundles.keys()
    assert len(keys) == 8
    for image in bundles:
        assert "version" not in image.arrays
        assert torch.equal(bundles[image.key].codes.w_plus, image.codes.w_plus)
        assert float(image.codes.w_plus.abs().sum()) > 0
    (batch,) = bundles.batches(8)
    assert batch.w_plus.shape[0] == 8


def test_a_copy_in_another_place_and_the_pointer_itself_open_alike(store, tmp_path):
    shutil.copytree(store, tmp_path / "copy")
    wanted = open_bundles(store).keys()
    assert open_bundles(tmp_path / "copy").keys() == wanted
    assert open_bundles(f"file://{tmp_path}/copy").keys() == wanted
    assert open_bundles(tmp_path / "copy/published.json").keys() == wanted


def test_the_index_is_there_as_a_table(store):
    table = open_bundles(store).table(["key", "invert.psnr_db"])
    assert table.column_names == ["key", "invert.psnr_db"]
    assert table.num_rows == 8


def test_reading_imports_no_ray_and_is_in_the_public_module(store):
    code = (
        "import sys, invertmill\n"
        f"bundles = invertmill.open_bundles({str(store)!r})\n"
        "assert len(next(bundles.batches(2)).w_plus) == 2\n"
        "assert 'ray' not in sys.modules\n"
        "assert set(invertmill.__all__) == set(dir(invertmill))\n"
        "assert all(getattr(invertmill, name) for name in invertmill.__all__ if name != 'main')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_an_unknown_key_is_named_with_one_that_exists(store):
    with pytest.raises(KeyError, match="no published image has the key 'nobody'; keys are like 'held-b-000'"):
        open_bundles(store)["nobody"]


def test_a_store_without_a_result_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(BundleError, match=r"nothing is published at .*`invertmill run CONFIG` publishes"):
        open_bundles(tmp_path)
    with pytest.raises(BundleError, match="nothing is published"):
        open_bundles(tmp_path / "published.json")


def arrays_file(run) -> Path:
    (path,) = (run.folder / "store").glob("bundles/invert/*/held-b*/*/arrays.tar")
    return path


def test_a_cut_tar_is_refused_with_its_unit_and_what_to_run(changeable):
    path = arrays_file(changeable)
    path.write_bytes(path.read_bytes()[:2000])
    bundles = open_bundles(changeable.folder / "store")
    with pytest.raises(BundleError, match=r"invert unit held-b-.* is truncated.*verify CONFIG --repair"):
        bundles["held-b-002"]
    with pytest.raises(BundleError, match=r"invert unit held-b-.*verify --repair"):
        list(bundles)


def test_a_changed_byte_is_refused_by_its_checksum(changeable):
    path = arrays_file(changeable)
    bundles = open_bundles(changeable.folder / "store")
    entry = next(bundles._catalogue.entries("held-b-001"))
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"invert unit held-b-.*the codes of held-b-001 .* are damaged"):
        bundles["held-b-001"]
    assert bundles["held-b-000"].codes.w_plus.shape[0] == 1
    with pytest.raises(BundleError, match="invert unit held-b-"):
        list(bundles.batches(2))


def test_a_missing_part_is_refused_with_its_unit(changeable):
    bundles = open_bundles(changeable.folder / "store")
    arrays_file(changeable).unlink()
    with pytest.raises(BundleError, match=r"invert unit held-b-.*arrays.tar is missing"):
        bundles["held-b-000"]
    with pytest.raises(BundleError, match=r"invert unit held-b-.*arrays.tar"):
        list(bundles)
