"""Weights reach a worker by their digest, whatever is at their path on its machine."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from infra.stores.storage import open_store
from pipeline.config import Compute
from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.data.weights import localised, weights_of
from stages.base.errors import WeightsError

CLUSTER = Compute(address="ray://head:10001")


class Network(BaseModel, frozen=True):
    weights: Path
    folders: tuple[Path, ...] = ()


class Stage(BaseModel, frozen=True):
    network: Network
    spare: Path | None = None
    size: int = 3


@pytest.fixture
def stage(tmp_path) -> Stage:
    folder = tmp_path / "driver" / "model"
    (folder / "deep").mkdir(parents=True)
    for name in ("config.json", "deep/model.safetensors", ".hidden"):
        (folder / name).write_text(name)
    (tmp_path / "driver" / "a.pth").write_bytes(b"weights")
    return Stage(network=Network(weights=tmp_path / "driver/a.pth", folders=(folder,)), spare=tmp_path / "absent")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def cache(private_cache) -> Path:
    return private_cache


def away(stage: Stage) -> None:
    """Take the weights away, as on a worker's machine that never had them."""
    stage.network.weights.unlink()
    stage.network.folders[0].rename(stage.network.folders[0].with_name("elsewhere"))


def identity(stage: Stage) -> str:
    return fingerprint("stage", 1, settings_of(stage.network))


def test_a_worker_on_another_machine_gets_weights_from_the_store(stage, store, cache):
    weights, before = weights_of(stage, store, CLUSTER), identity(stage)
    away(stage)
    moved = localised(stage, weights, store)
    assert moved.network.weights.read_bytes() == b"weights"
    folder = moved.network.folders[0]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["config.json", "model.safetensors"]
    assert moved.network.weights.is_relative_to(cache)
    assert folder.is_relative_to(cache)
    assert (moved.size, moved.spare) == (stage.size, stage.spare)
    assert identity(moved) == before


def test_a_machine_that_has_the_weights_uses_them_where_they_are(stage, store, cache):
    assert localised(stage, weights_of(stage, store, CLUSTER), store) == stage
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"other", b""])
def test_another_file_at_the_same_path_is_not_taken_for_the_weights(stage, store, content):
    weights = weights_of(stage, store, CLUSTER)
    stage.network.weights.write_bytes(content)
    assert localised(stage, weights, store).network.weights.read_bytes() == b"weights"


def test_a_damaged_copy_in_the_cache_or_a_folder_is_replaced(stage, store):
    weights = weights_of(stage, store, CLUSTER)
    away(stage)
    moved = localised(stage, weights, store).network
    for path in (moved.weights, moved.folders[0] / "config.json"):
        path.unlink()
        path.write_bytes(b"damaged")
    again = localised(stage, weights, store).network
    assert again.weights.read_bytes() == b"weights"
    assert (again.folders[0] / "config.json").read_text() == "config.json"


def test_weights_are_put_into_the_store_once_and_only_for_a_cluster(stage, store):
    weights_of(stage, store, Compute())
    assert list(store.list()) == []
    weights_of(stage, store, CLUSTER)
    entries = list(store.list())
    assert len(entries) == 3
    weights_of(stage, store, CLUSTER)
    assert list(store.list()) == entries


def test_weights_that_are_nowhere_are_told_with_path_and_digest(stage, store):
    weights = weights_of(stage, store, Compute())
    away(stage)
    with pytest.raises(WeightsError, match=rf"a\.pth with the SHA-256 {weights[0].sha256} is neither on .* nor in the"):
        localised(stage, weights, store)


def test_a_damaged_copy_in_the_store_is_refused(stage, store):
    weights = weights_of(stage, store, CLUSTER)
    away(stage)
    store.write(weights[0].name, b"damaged")
    with pytest.raises(WeightsError, match=f"SHA-256 mismatch .*expected {weights[0].sha256}"):
        localised(stage, weights, store)
