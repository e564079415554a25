"""Photographs of two sizes from object storage to object storage, in the demo's generator: nothing is lost."""

import io
import json
import math
import tarfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.stores.storage import open_store
from pipeline.publish.index import read_index
from stages.maps.region import Region, fit, to_uint8
from stages.refine_maps import assign_spaces
from stages.segmentation import SegmentInput, Superpixels
from tests.integration.mill import MAPPED, Mill
from tests.servers import S3Server

SHARDS = ("lsun-cats-000000", "lsun-cars-000000")
SIDE_PX = 64
THRESHOLD = 0.4
BRIEF = {"schedule": {"steps": 3, "learning_rate": 0.1}}
SETTINGS = {
    "truth": None,
    "unit_samples": 5,
    "supervision": {"shards": "lsun-cats-*", "share": 0.4, "held_out_shards": "lsun-cars-*"},
    "error_maps": BRIEF,
    "invert": BRIEF,
    "refine_maps": {"threshold": THRESHOLD, "segmentation": {"kind": "superpixels", "segments": 20}},
}


@dataclass(frozen=True)
class PhotographRun:
    """The finished run, and what was in the shards."""

    mill: Mill
    pictures: dict[str, np.ndarray]  # [H, W, 3] uint8 by key


@pytest.fixture(scope="module")
def photographs(shared: Path) -> dict[str, np.ndarray]:
    """Every picture of the two shards by its key."""
    found = {}
    for name in SHARDS:
        with tarfile.open(shared / f"data/{name}.tar") as tar:
            for member in tar:
                data = tar.extractfile(member)
                assert data is not None
                found[member.name.removesuffix(".png")] = np.array(Image.open(io.BytesIO(data.read())).convert("RGB"))
    return found


@pytest.fixture(scope="module")
def run(new_mill: Callable[..., Mill], shared: Path, photographs, ministack: S3Server):
    """One run over both shards, from a bucket to the same bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ministack.environment.items():
            patch.setenv(name, value)
        address = f"s3://{ministack.make_bucket(f'photographs-{uuid.uuid4().hex[:12]}')}"
        for name in SHARDS:
            open_store(address).write(f"in/{name}.tar", shared / f"data/{name}.tar")
        mill = new_mill(scenes=False, input=f"{address}/in/*.tar", output=f"{address}/out", **SETTINGS)
        mill = replace(mill, environment={**mill.environment, **ministack.environment})
        said = mill.call("run")
        assert said.code == 0, said.text
        yield PhotographRun(mill, photographs)


def test_every_photograph_is_accounted_for(run: PhotographRun):
    summary = json.loads((run.mill.folder / "out/summary.json").read_text())
    assert len(run.pictures) == 20
    assert summary["samples"] == {"inventory": 20, "recorded": 20, "quarantined": 0}
    assert set(run.mill.records("invert")) == set(run.pictures)
    said = run.mill.call("verify")
    assert said.code == 0, said.text
    assert "invert: 20 samples = 20 recorded + 0 quarantined" in said.text


def test_the_supervision_share_of_both_shards_has_error_maps(run: PhotographRun):
    selection = run.mill.plan().supervision
    roles = {key: selection.role(_shard(key), key) for key in run.pictures}
    assert set(run.mill.records("error_maps")) == {key for key, role in roles.items() if role is not None}
    assert set(roles.values()) == {"supervision", "held_out", None}


def test_wide_photographs_are_fitted_to_the_square_canvas(run: PhotographRun):
    cars = [key for key in run.pictures if _shard(key).startswith("lsun-cars")]
    assert {run.pictures[key].shape for key in cars} == {(192, 256, 3)}
    inverted = run.mill.records("invert")
    assert len(cars) == 10
    for key in cars:
        assert inverted[key].arrays["assignment_HW"].shape == (SIDE_PX, SIDE_PX)
        assert math.isfinite(float(str(inverted[key].row["psnr_db"])))
        assert float(str(inverted[key].row["psnr_db"])) > 3


def test_superpixels_of_a_photograph_are_each_given_one_space(run: PhotographRun):
    segment = Superpixels(segments=20).load("cpu")
    refined, predicted = run.mill.records("refine_maps"), run.mill.records("predict_maps")
    assert refined
    for key, record in refined.items():
        image_HW3 = to_uint8(fit(run.pictures[key], Region.whole(SIDE_PX))[None])[0]
        [labels_HW] = segment([SegmentInput(image_HW3)])
        assert np.array_equal(record.arrays["labels_HW"], labels_HW)
        assert len(np.unique(labels_HW)) > 5
        error_LHW = predicted[key].arrays["error_LHW"].astype(np.float32)
        assert np.array_equal(record.arrays["assignment_HW"], assign_spaces(error_LHW, labels_HW, THRESHOLD))


def test_the_published_index_names_every_photograph_with_its_shard(run: PhotographRun):
    plan = run.mill.plan()
    pointer = json.loads(plan.ledger.store.read("published.json"))
    receipt = next(one for name, one in run.mill.receipts().items() if name == pointer["receipt"])
    rows = read_index(plan.ledger, receipt)
    assert {row["key"]: row["shard"] for row in rows} == {key: _shard(key) for key in run.pictures}
    assert set(pointer["stages"]) == {*MAPPED, "train_segmenter"}


def _shard(key: str) -> str:
    return f"{SHARDS[0] if key.startswith('cat') else SHARDS[1]}.tar"
