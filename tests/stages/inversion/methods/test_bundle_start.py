"""A start at codes of an earlier inversion, from a file with keys or from the record that a sample carries."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generators.codes import write_keys
from generators.errors import ArgumentError
from stages.base.errors import WeightsError
from stages.base.stage import Record, Rejected
from stages.error_maps import ErrorMaps
from stages.inversion.starts.bundle import GIVEN
from tests.stages.inversion.methods.inverted import CPU, inverted, sample, sources, stage_of

STAY = {"steps": 1, "learning_rate": 1e-6}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("networks"))


def codes_of(count: int, rows: int = 8) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, rows, 8)).astype(np.float32)


def written(folder: Path, codes: np.ndarray, name: str = "latents.npy") -> dict[str, object]:
    if name.endswith(".npy"):
        np.save(folder / name, codes)
    else:
        torch.save(torch.from_numpy(codes), folder / name)
    write_keys(folder / "latents.csv", [("shard", f"s{number}") for number in range(len(codes))])
    return {"kind": "bundle", "codes": folder / name}


@pytest.mark.parametrize("name", ["latents.npy", "latents.pt"])
def test_every_image_starts_at_the_codes_of_its_key(networks, tmp_path, name: str):
    codes = codes_of(3)
    stage = stage_of(networks, start=written(tmp_path, codes, name), schedule=STAY)
    for record, number in zip(inverted(stage, sample(2), sample(0)), (2, 0), strict=True):
        np.testing.assert_allclose(record.row["w_plus"], codes[number], rtol=2e-3, atol=2e-3)


def test_one_row_is_the_code_of_all_layers(networks, tmp_path):
    codes = codes_of(1, rows=1)
    (record,) = inverted(stage_of(networks, start=written(tmp_path, codes), schedule=STAY), sample(0))
    np.testing.assert_allclose(record.row["w_plus"], codes[0].repeat(8, axis=0), rtol=2e-3, atol=2e-3)


def test_an_image_without_codes_is_quarantined_alone(networks, tmp_path):
    work = stage_of(networks, start=written(tmp_path, codes_of(2))).setup(CPU)
    kept, rejected, other = work([sample(0), sample(5), sample(1)])
    assert isinstance(kept, Record)
    assert isinstance(other, Record)
    assert isinstance(rejected, Rejected)
    assert "there are no codes of it in" in rejected.reason


def test_an_image_may_start_at_the_record_that_its_sample_carries(networks):
    codes = codes_of(1)[0]
    carried = replace(
        sample(0), records={**sample(0).records, GIVEN: Record("s0", {"w_plus": codes.astype(np.float16)})}
    )
    stage = stage_of(networks, start={"kind": "bundle", "store": "/other"}, schedule=STAY)
    (record,) = inverted(stage, carried)
    np.testing.assert_allclose(record.row["w_plus"], codes, rtol=2e-3, atol=2e-3)


def test_codes_of_another_generator_and_missing_files_are_refused_before_the_first_image(networks, tmp_path):
    wide = np.zeros((1, 8, 512), np.float32)
    with pytest.raises(ArgumentError, match=r"codes of \[8, 512\], and the generator's are \[8, 8\]"):
        stage_of(networks, start=written(tmp_path, wide)).setup(CPU)
    with pytest.raises(WeightsError, match=r"no weights at .*gone\.npy"):
        stage_of(networks, start={"kind": "bundle", "codes": tmp_path / "gone.npy"}).start.check()


def test_codes_come_from_one_place_and_a_store_serves_inversions_only(networks):
    for start in ({"kind": "bundle"}, {"kind": "bundle", "codes": "a.npy", "store": "b"}):
        with pytest.raises(ValueError, match=r"either codes .* or store"):
            stage_of(networks, start=start)
    with pytest.raises(ValueError, match="cannot start from a store"):
        ErrorMaps.model_validate({**networks, "start": {"kind": "bundle", "store": "b"}})


def test_places_decide_nothing_in_a_fingerprint(networks, tmp_path):
    one, other = (
        stage_of(networks, start={"kind": "bundle", "store": store, "inversions": "0123456789abcdef"})
        for store in ("/a", "s3://b/c")
    )
    assert one.start.hashed_as("start") == other.start.hashed_as("start")
    assert set(stage_of(networks, start=written(tmp_path, codes_of(1))).start.hashed_as("start")["start"]) == {
        "kind",
        "codes",
        "keys",
    }
