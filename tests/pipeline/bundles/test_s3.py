"""A result in a bucket, under any prefix, reads as it does in its folder."""

import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.stores.s3 import S3Store
from infra.stores.storage import open_store
from pipeline import open_bundles


@pytest.fixture
def bucket(ministack, use_server) -> str:
    """The address of an empty bucket."""
    use_server(ministack)
    return f"s3://{ministack.make_bucket(f'copy-{uuid.uuid4().hex[:12]}')}"


def copied(folder: Path, address: str) -> str:
    """Copy a store's files below an address, as any tool does, and return it."""
    target = open_store(address)
    for path in folder.rglob("*"):
        if path.is_file():
            target.write(str(path.relative_to(folder)), path)
    return address


def test_a_copy_in_a_bucket_has_the_same_images(store, bucket):
    local, address = open_bundles(store), copied(store, f"{bucket}/of/another-name")
    for remote in (open_bundles(address), open_bundles(f"{address}/published.json")):
        assert remote.keys() == local.keys()
        for one, other in zip(remote.batches(3), local.batches(3), strict=True):
            assert one.keys == other.keys
            assert [row["psnr_db"] for row in one.rows] == [row["psnr_db"] for row in other.rows]
            assert torch.equal(one.w_plus, other.w_plus)
            assert one.deltas.keys() == other.deltas.keys()
            assert all(torch.equal(one.deltas[space], other.deltas[space]) for space in other.deltas)
            np.testing.assert_array_equal(one.assignments, other.assignments)


def test_an_image_of_a_bucket_takes_one_ranged_request(store, bucket, monkeypatch):
    remote, requests = open_bundles(copied(store, f"{bucket}/store")), []
    whole = S3Store._fetch
    monkeypatch.setattr(S3Store, "_fetch", lambda *asked: requests.append(asked[1:]) or whole(*asked))
    key = remote.keys()[3]
    assert torch.equal(remote[key].codes.w_plus, open_bundles(store)[key].codes.w_plus)
    ((name, start, stop),) = requests
    assert name.endswith("arrays.tar")
    assert 0 < stop - start < (store / name).stat().st_size
