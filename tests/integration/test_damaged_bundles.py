"""One run over a store in which something of every kind is damaged: all of it is made again, and nothing else."""

import json
from pathlib import Path

from infra.fetching.cache import file_path
from tests import tiny
from tests.integration.mill import MAPPED, Mill, differences


def file(mill: Mill, pattern: str) -> Path:
    """Return one file of the store."""
    return sorted((mill.folder / "store").glob(pattern))[0]


def flip(path: Path) -> None:
    """Alter one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cached_segmenter(mill: Mill) -> Path:
    """Return where the cache of this machine keeps the segmenter of a run."""
    receipt = json.loads(file(mill, "receipts/train_segmenter/*/segmenter.json").read_text())
    (sha256,) = [entry["sha256"] for entry in receipt["files"] if entry["name"].endswith("/segmenter.safetensors")]
    return file_path(sha256)


def test_a_run_makes_what_is_damaged_again_and_ends_as_an_undisturbed_one(finished: Mill, finished_copy: Mill):
    mill = finished_copy
    mill.forget("refine_maps")  # so that refine_maps is computed, from maps of which some are damaged
    tiny.truncated(file(mill, "bundles/inventory/*/supervision*/*/samples.parquet"), 0.5)
    file(mill, "receipts/inventory/*/held-out*.json").write_text("{")
    flip(file(mill, "bundles/error_maps/*/supervision*-000000-*/*/arrays.tar"))
    file(mill, "bundles/error_maps/*/supervision*-000002-*/*/arrays.tar").unlink()
    flip(file(mill, "bundles/train_segmenter/*/segmenter/*/segmenter.safetensors"))
    flip(cached_segmenter(mill))
    flip(file(mill, "bundles/predict_maps/*/held-out*-000000-*/*/arrays.tar"))
    tiny.truncated(file(mill, "receipts/predict_maps/*/supervision*-000002-*.json"), 0.5)
    file(mill, "receipts/invert/*/held-out*-000000-*.json").write_bytes(b"")
    flip(file(mill, "bundles/invert/*/supervision*-000000-*/*/arrays.tar"))
    said = mill.call("run")
    assert said.code == 0, said.text
    for stage, count in {"inventory": 2, "error_maps": 2, "train_segmenter": 1, "predict_maps": 2, "invert": 2}.items():
        assert said.text.count(f"damaged: {stage} unit") == count, said.text
        assert len(list((mill.folder / "store/damaged" / stage).rglob("*.json"))) == count
    assert "Traceback" not in said.text
    assert mill.problems() == []
    assert {stage: differences(mill.records(stage), finished.records(stage)) for stage in MAPPED} == {
        stage: [] for stage in MAPPED
    }
