"""The demo's shards: the same bytes every time, and what stock webdataset reads."""

import io
import json

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from infra.shards.shards import write_shard
from pipeline.demo.occluders import OCCLUDER, SEEN, UNSEEN
from pipeline.demo.scenes import Z_DIM, draw_scenes
from pipeline.demo.write_shards import CLEAN_EVERY, SHARDS, demo_samples, write_demo_shards

pytestmark = pytest.mark.filterwarnings(  # webdataset leaves the files it has read to the garbage collector
    "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "shards"
    write_demo_shards(folder)
    return folder


@pytest.fixture
def enforced(monkeypatch):
    """Webdataset as people run it who do not trust their shards."""
    monkeypatch.setattr(wds.utils, "enforce_security", True)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def read(shards, name):
    return list(wds.WebDataset(str(shards / f"{name}.tar"), shardshuffle=False))


def test_every_shard_is_written_and_nothing_else(shards):
    assert {path.name for path in shards.iterdir()} == {f"{name}.tar" for name in SHARDS}


def test_shards_written_twice_have_the_same_bytes(shards, tmp_path):
    write_demo_shards(tmp_path)
    for name in SHARDS:
        assert (tmp_path / f"{name}.tar").read_bytes() == (shards / f"{name}.tar").read_bytes()


def test_a_shard_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "held-out-000000.tar").write_bytes(b"somebody's own")
    write_demo_shards(tmp_path)
    assert (tmp_path / "held-out-000000.tar").read_bytes() == b"somebody's own"


@pytest.mark.usefixtures("enforced")
@pytest.mark.parametrize("name", SHARDS)
def test_stock_webdataset_reads_every_sample_with_security_enforced(shards, name):
    samples = read(shards, name)
    assert [sample["__key__"] for sample in samples] == [f"{name}-{i:04d}" for i in range(SHARDS[name])]
    for sample in samples:
        assert {"png", "seg.png", "occluder.png", "json"} <= sample.keys()


@pytest.mark.usefixtures("enforced")
def test_stock_webdataset_decodes_pictures_labels_and_descriptions(shards):
    decoded = wds.WebDataset(str(shards / "held-out-000000.tar"), shardshuffle=False).decode("rgb8")
    first = next(iter(decoded))
    assert first["png"].shape == (64, 64, 3)
    assert first["json"]["occluder"] is None
    assert len(first["json"]["z"]) == Z_DIM


@pytest.mark.parametrize(("name", "kinds"), [("supervision-000000", SEEN), ("held-out-000000", UNSEEN)])
def test_a_shard_shows_its_own_kinds_of_occluders_all_of_them_and_clean_scenes(shards, name, kinds):
    shown = [json.loads(sample["json"])["occluder"] for sample in read(shards, name)]
    assert set(shown) - {None} == set(kinds)
    assert [i for i, kind in enumerate(shown) if kind is None] == list(range(0, len(shown), CLEAN_EVERY))


def test_masks_and_labels_agree_and_are_empty_where_nothing_was_pasted(shards):
    for sample in read(shards, "supervision-000000"):
        mask, labels = pixels(sample["occluder.png"]), pixels(sample["seg.png"])
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask == 255, labels == OCCLUDER)
        assert (mask == 255).any() == (json.loads(sample["json"])["occluder"] is not None)


def test_the_z_that_is_written_draws_the_scene_outside_the_mask(shards):
    samples = read(shards, "supervision-000001")[:9]
    scenes = draw_scenes(torch.tensor([json.loads(sample["json"])["z"] for sample in samples]))
    drawn = ((scenes.image.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    for sample, image in zip(samples, drawn, strict=True):
        clean = pixels(sample["occluder.png"]) == 0
        assert abs(pixels(sample["png"])[clean] - image[clean]).max() < 1


def test_held_out_scenes_come_with_their_true_edits_and_others_without(shards):
    assert all("edits.npz" in sample for sample in read(shards, "held-out-000000"))
    assert not any("edits.npz" in sample for sample in read(shards, "supervision-000000"))


def test_shards_do_not_share_scenes(shards):
    codes = {tuple(json.loads(sample["json"])["z"]) for name in SHARDS for sample in read(shards, name)}
    assert len(codes) == sum(SHARDS.values())


def test_another_seed_is_another_shard(tmp_path):
    for seed in (0, 1):
        write_shard(tmp_path / f"{seed}.tar", demo_samples("a", 3, SEEN, seed))
    assert (tmp_path / "0.tar").read_bytes() != (tmp_path / "1.tar").read_bytes()
