"""Runs over a store in which something is done, damaged or set otherwise, all with one Ray in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.trained_networks import TrainedSegmenter
from tests import tiny
from tests.integration.mill import MAPPED, SAMPLES_PER_SHARD, SEEN, SHARDS, Mill, differences, write_scenes

SCENES = SAMPLES_PER_SHARD * len(SHARDS)
UNITS = SCENES // 2

PUBLISHED = ("publish",) * 3  # an index, its part, and the supervision

pytestmark = pytest.mark.usefixtures("ray_here")


def test_a_run_takes_a_published_segmenter_in_place_of_a_training(finished: Mill, new_mill: Callable[..., Mill]):
    mill = new_mill(segmenter={"kind": "published", "weights": "segmenter.pt"})
    shutil.copy2(
        next(finished.folder.glob("store/bundles/train_segmenter/*/*/*/*.safetensors")), mill.folder / "segmenter.pt"
    )
    said = mill.call_here("run")
    assert said.code == 0, said.text
    assert {stage: len(mill.committed(stage)) for stage in MAPPED} == dict.fromkeys(MAPPED, UNITS) | {"error_maps": 0}
    assert mill.problems() == []
    said = mill.call_here("run")
    assert "nothing to do" in said.text


def test_another_threshold_reruns_refine_maps_and_invert_only(finished_copy: Mill):
    before = finished_copy.receipts()
    said = finished_copy.call_here("run", "refine_maps.threshold=0.9")
    assert said.code == 0, said.text
    after = finished_copy.receipts()
    assert {name: after.get(name) for name in before} == before
    made = [receipt.stage for name, receipt in after.items() if name not in before]
    assert sorted(made) == sorted(["refine_maps"] * UNITS + ["invert"] * UNITS + ["publish"] * 2), (
        "and a part and an index"
    )
    assert finished_copy.problems("refine_maps.threshold=0.9") == []
    said = finished_copy.call_here("tune --invert", "trade_off.samples=3", "trade_off.points=3")
    assert said.code == 0, said.text
    assert "means over 3 samples, 3 of them held out" in said.text
    measured = {name for name in finished_copy.receipts() if name not in after}
    assert [name.split("/")[1] for name in measured] == ["trade_off"]


def test_a_new_shard_is_processed_and_nothing_else(finished_copy: Mill):
    before = finished_copy.receipts()
    write_scenes(finished_copy.folder / "shards", {"supervision-night": SEEN}, count=2)
    assert finished_copy.problems() != []
    said = finished_copy.call_here("run")
    assert said.code == 0, said.text
    after = finished_copy.receipts()
    assert {name: after.get(name) for name in before} == before
    made = [receipt for name, receipt in after.items() if name not in before]
    assert sorted(receipt.stage for receipt in made) == sorted(["inventory", *PUBLISHED, *MAPPED])
    night = {"supervision-night-0000", "supervision-night-0001"}
    assert {receipt.stage for receipt in made if set(receipt.recorded) == night} == {"inventory", *MAPPED}
    summary = json.loads((finished_copy.folder / "out/summary.json").read_text())
    assert summary["samples"] == {"inventory": SCENES + 2, "recorded": SCENES + 2, "quarantined": 0}
    assert finished_copy.problems() == []


def published(mill: Mill) -> dict[str, bytes]:
    """Return the pointer and every report."""
    paths = [mill.folder / "store/published.json", *(mill.folder / "store/reports").iterdir()]
    paths += [path for path in (mill.folder / "out").glob("*.*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


def test_a_run_whose_units_all_fail_says_why_and_publishes_nothing(finished_copy: Mill):
    before = published(finished_copy)
    too_slow = "invert.schedule.steps=100000"  # no unit ends before the supervising loop first looks at its deadline
    said = finished_copy.call_here("run", too_slow, "compute.unit_deadline_s=0.01", "compute.attempts=1")
    assert said.code == 1, said.text
    assert "failed 4 units: invert: given up after 1 attempts: nothing finished within 0 s" in said.text
    assert "nothing was published, because none of 8 samples is recorded" in said.text
    assert "Traceback" not in said.text
    assert published(finished_copy) == before


# ---- damage


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
    plan = mill.plan()
    receipt = plan.ledger.receipt(plan.train_segmenter())
    assert receipt is not None
    return TrainedSegmenter(receipt).fetch(plan.ledger)


def test_a_run_makes_what_is_damaged_again_and_ends_as_an_undisturbed_one(finished: Mill, finished_copy: Mill):
    mill = finished_copy
    mill.forget("refine_maps")  # so that refine_maps is computed, from maps of which some are damaged
    tiny.truncated(file(mill, "bundles/inventory/*/supervision*/*/samples.parquet"), 0.5)
    file(mill, "receipts/inventory/*/held-out*.json").write_text("{")
    flip(file(mill, "bundles/error_maps/*/supervision*-000000-*/*/arrays.tar"))
    file(mill, "bundles/error_maps/*/supervision*-000002-*/*/arrays.tar").unlink()
    cached = cached_segmenter(mill)
    flip(file(mill, "bundles/train_segmenter/*/segmenter/*/segmenter.safetensors"))
    flip(cached)
    flip(file(mill, "bundles/predict_maps/*/held-out*-000000-*/*/arrays.tar"))
    tiny.truncated(file(mill, "receipts/predict_maps/*/supervision*-000002-*.json"), 0.5)
    file(mill, "receipts/invert/*/held-out*-000000-*.json").write_bytes(b"")
    flip(file(mill, "bundles/invert/*/supervision*-000000-*/*/arrays.tar"))
    said = mill.call_here("run")
    assert said.code == 0, said.text
    for stage, count in {"inventory": 2, "error_maps": 2, "train_segmenter": 1, "predict_maps": 2, "invert": 2}.items():
        assert said.text.count(f"damaged: {stage} unit") == count, said.text
        assert len(list((mill.folder / "store/damaged" / stage).rglob("*.json"))) == count
    assert "Traceback" not in said.text
    assert mill.problems() == []
    assert {stage: differences(mill.records(stage), finished.records(stage)) for stage in MAPPED} == {
        stage: [] for stage in MAPPED
    }
