"""A run whose generator is fetched: its fingerprints are those of the content, and no worker asks the server."""

import hashlib
import uuid

import pytest
import torch

from generators import CheckpointError
from infra.stores.storage import open_store
from stages.inversion.stage import InvertingStage
from tests.generators.published import tiny as random_generator
from tests.pipeline.plan.test_plan import prints
from tests.web import WebServer, web_server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def web():
    with web_server() as server:
        yield server


@pytest.fixture
def served(web: WebServer, committed):
    """The address of the committed run's generator."""
    return web.put("/generator.safetensors", (committed.folder / "networks/generator.safetensors").read_bytes())


def digest(committed) -> str:
    return hashlib.sha256((committed.folder / "networks/generator.safetensors").read_bytes()).hexdigest()


def test_fingerprints_are_those_of_the_content_wherever_it_is(committed, served):
    wanted = prints(committed)
    assert prints(committed, f"generator.checkpoint={served}") == wanted
    assert prints(committed, f"generator.checkpoint={served}", f"generator.sha256={digest(committed)}") == wanted
    assert prints(committed, f"generator.sha256={digest(committed)}") == wanted


def test_fingerprints_follow_the_content_under_an_address(committed, served, web, tmp_path):
    before = prints(committed, f"generator.checkpoint={served}")
    from generators.checkpoints import save_generator

    save_generator(random_generator(32, seed=5), tmp_path / "other.safetensors", about="another")
    web.put("/generator.safetensors", (tmp_path / "other.safetensors").read_bytes())
    after = prints(committed, f"generator.checkpoint={served}")
    assert {name for name in before if before[name] != after[name]} >= {"error_maps", "train_segmenter", "invert"}


def test_workers_load_what_was_planned_without_asking_the_server(committed, served, web):
    stage = committed.plan(f"generator.checkpoint={served}").error_maps().stage
    assert isinstance(stage, InvertingStage)
    web.asked.clear()
    assert stage.generator.load(torch.device("cpu")).digest == digest(committed)
    assert web.asked == []


def test_workers_refuse_a_checkpoint_that_was_replaced_since_the_plan(committed):
    stage = committed.plan().error_maps().stage
    path = committed.folder / "networks/generator.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="SHA-256 mismatch"):
        stage.generator.load(torch.device("cpu"))


def test_a_checkpoint_of_another_digest_stops_the_plan(committed, served):
    with pytest.raises(CheckpointError, match=f"expected {'f' * 64}, got {digest(committed)}"):
        committed.plan(f"generator.checkpoint={served}", f"generator.sha256={'f' * 64}").error_maps()


@pytest.mark.parametrize("server", ["ministack", "rclone"])
def test_a_run_plans_with_a_generator_in_object_storage(committed, use_server, request, server):
    running = use_server(request.getfixturevalue(server))
    wanted = prints(committed)
    store = open_store(f"s3://{running.make_bucket(f'weights-{uuid.uuid4().hex[:12]}')}")
    store.write("g.safetensors", committed.folder / "networks/generator.safetensors")
    assert prints(committed, f"generator.checkpoint={store.url}/g.safetensors") == wanted
