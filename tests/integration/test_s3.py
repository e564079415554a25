"""The same run from object storage to object storage, on a server with conditional writes and on one without."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.stores.storage import open_store
from tests.integration.mill import MAPPED, SAMPLES_PER_SHARD, SHARDS, Mill, Said, differences
from tests.servers import S3Server, free_port, gate

SCENES = SAMPLES_PER_SHARD * len(SHARDS)


def upload(folder: Path, address: str) -> None:
    """Put every file of a folder below an address."""
    store = open_store(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path)


@pytest.fixture
def in_s3(new_mill: Callable[..., Mill], use_server) -> Callable[[S3Server], tuple[Mill, str]]:
    """Return a function that puts the eight scenes into a new bucket and makes a run from and to it."""

    def make(server: S3Server) -> tuple[Mill, str]:
        use_server(server)
        address = f"s3://{server.make_bucket(f'mill-{uuid.uuid4().hex[:12]}')}"
        mill = new_mill()
        upload(mill.folder / "shards", f"{address}/shards")
        overrides = (f"input={address}/shards/*.tar", f"output={address}/store")
        return replace(mill, environment={**mill.environment, **server.environment}, overrides=overrides), address

    return make


def run_with_server_away(mill: Mill, server: S3Server, seconds: float) -> Said:
    """Run through a gate that is shut for a while once the first error maps are committed."""
    port = free_port()
    mill = replace(mill, environment={**mill.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    with gate(server.endpoint_url, lambda _: None, port):
        process = mill.start("run", "compute.attempts=1")
        mill.watch(process, lambda: mill.committed("error_maps"), "the first error maps")
    time.sleep(seconds)
    with gate(server.endpoint_url, lambda _: None, port):
        return mill.finish(process)


def test_a_run_from_s3_to_s3_whose_server_was_away_equals_the_one_in_folders(
    in_s3, ministack: S3Server, finished: Mill
):
    mill, address = in_s3(ministack)
    said = run_with_server_away(mill, ministack, 15)
    assert said.code == 0, said.text
    assert "trying again for up to 60 min" in said.text
    verified = mill.call("verify")
    assert verified.code == 0, verified.text
    assert f"invert: {SCENES} samples = {SCENES} recorded + 0 quarantined" in verified.text
    assert not (mill.folder / "store").exists()
    assert {stage: differences(mill.records(stage), finished.records(stage)) for stage in MAPPED} == {
        stage: [] for stage in MAPPED
    }
    store = open_store(f"{address}/store")
    assert json.loads(store.read("published.json"))["samples"] == SCENES
    assert store.read("reports/report.html") == (mill.folder / "out/report.html").read_bytes()
    assert [entry.name for entry in store.list("training/")] == []


def test_a_store_without_conditional_writes_takes_a_run_over_and_ends_it_the_same(in_s3, rclone, finished: Mill):
    mill, address = in_s3(rclone)
    assert not open_store(f"{address}/store").conditional
    for stage in ("error_maps", "train_segmenter"):
        for part in ("bundles", "receipts"):
            upload(finished.folder / "store" / part / stage, f"{address}/store/{part}/{stage}")
    before = mill.receipts()
    said = mill.call("run")
    assert said.code == 0, said.text
    after = mill.receipts()
    assert before
    assert {name: after.get(name) for name in before} == before
    assert mill.problems() == []
    assert json.loads((mill.folder / "out/summary.json").read_text())["samples"]["recorded"] == SCENES
    assert differences(mill.records("invert"), finished.records("invert")) == []
    again = mill.call("run")
    assert again.code == 0, again.text
    assert "nothing to do" in again.text
