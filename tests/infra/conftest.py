"""An empty store of each kind, and a small shard, for every test that asks for one."""

import uuid

import pytest

from infra.shards.shards import write_shard
from infra.stores.storage import FolderStore, S3Options, S3Store, open_store
from tests.infra.tars import COUNT, sample

BUCKET = "mill"


@pytest.fixture(scope="session")
def ministack_bucket(ministack):
    ministack.make_bucket(BUCKET)
    return ministack


@pytest.fixture(scope="session")
def rclone_bucket(rclone):
    rclone.make_bucket(BUCKET)
    return rclone


@pytest.fixture
def make_store(request, tmp_path, use_server):
    """Return a function that makes an empty store of a kind: folder, ministack or rclone."""

    def make(kind: str) -> FolderStore | S3Store:
        if kind == "folder":
            return open_store(str(tmp_path / "store"))
        use_server(request.getfixturevalue(f"{kind}_bucket"))
        return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", S3Options(attempts=2))

    return make


@pytest.fixture(params=["folder", "ministack", "rclone"])
def store(request, make_store):
    return make_store(request.param)


@pytest.fixture(params=["folder", "ministack"])
def conditional_store(request, make_store):
    return make_store(request.param)


@pytest.fixture
def shard(tmp_path):
    """A shard of COUNT samples with two members each, as bytes; also a.tar in the folder."""
    write_shard(tmp_path / "a.tar", map(sample, range(COUNT)))
    return (tmp_path / "a.tar").read_bytes()
