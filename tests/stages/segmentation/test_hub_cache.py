"""A model in the Hugging Face cache is what its digests say, or it is fetched again."""

import hashlib
import importlib.util

import pytest

from stages.base.errors import WeightsError
from stages.segmentation import HuggingFace
from stages.segmentation.hub_cache import drop_damaged

REVISION = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100}


def digest(name: str, data: bytes) -> str:
    """Return how the hub names a blob: git's digest, or SHA-256 where the file lies in large storage."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A model as huggingface_hub keeps it, in a cache of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--name"
    folder = model / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (model / "blobs").mkdir()
    for name, data in FILES.items():
        blob = model / "blobs" / digest(name, data)
        blob.write_bytes(data)
        (folder / name).symlink_to(f"../../blobs/{blob.name}")
    return folder


def test_a_whole_model_is_left_as_it_is(snapshot):
    assert drop_damaged(snapshot) == []
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda _: None])
def test_a_damaged_file_is_dropped_with_its_link(snapshot, name, harm):
    blob = (snapshot / name).resolve()
    data = harm(blob.read_bytes())
    blob.unlink() if data is None else blob.write_bytes(data)
    assert drop_damaged(snapshot) == [name]
    assert not blob.exists()
    assert [path.name for path in snapshot.iterdir()] == [other for other in FILES if other != name]


def test_files_that_are_not_links_are_left_alone(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    assert drop_damaged(tmp_path) == []


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra huggingface")
def test_a_damaged_model_that_may_not_be_fetched_is_refused_with_what_to_do(snapshot):
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(b"weightz" * 100)
    source = HuggingFace(hub="owner/name", revision=REVISION)
    with pytest.raises(WeightsError, match=r"owner/name@aaaaaaaa is damaged .*model.safetensors .*hf download owner"):
        source.check()
    assert not blob.exists()
