"""Streaming for training: every image once, whatever the number of processes and workers."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from infra.errors import BundleError
from pipeline import open_bundles


def one(item):
    """Return a batch as what a worker sends, which unpacks on the other side."""
    return item


def test_a_stream_is_an_iterable_dataset_that_yields_every_image_in_order(store):
    dataset = open_bundles(store).dataset()
    assert isinstance(dataset, IterableDataset)
    assert [image.key for image in dataset] == open_bundles(store).keys()


def test_two_workers_of_a_loader_share_the_units(store):
    bundles = open_bundles(store)
    loader = DataLoader(bundles.dataset(batch=2), batch_size=None, num_workers=2, collate_fn=one)
    batches = list(loader)
    assert sorted(key for batch in batches for key in batch.keys) == bundles.keys()
    assert all(len(batch.w_plus) == len(batch) for batch in batches)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_the_units(store, rank, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    keys = {image.key for image in open_bundles(store).dataset()}
    both = open_bundles(store).keys()
    assert 0 < len(keys) < len(both)
    monkeypatch.setenv("RANK", str(1 - rank))
    assert keys.isdisjoint({image.key for image in open_bundles(store).dataset()})


def test_shuffling_depends_on_the_seed_alone(store):
    orders = [[image.key for image in open_bundles(store).dataset(shuffle=8, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == open_bundles(store).keys()


def test_the_codes_of_a_stream_are_those_of_the_reader(store):
    bundles = open_bundles(store)
    for batch in bundles.dataset(batch=3):
        for image, key in zip(batch.images, batch.keys, strict=True):
            assert torch.equal(image.codes.w_plus, bundles[key].codes.w_plus)
            assert image.row["psnr_db"] == bundles[key].row["psnr_db"]


def test_codes_of_version_1_stream_too(earlier_store):
    (batch,) = open_bundles(earlier_store).dataset(batch=8)
    assert batch.w_plus.shape[0] == 8


def test_a_cut_tar_ends_a_stream_with_its_unit(changeable):
    (path,) = (changeable.folder / "store").glob("bundles/invert/*/held-b*/*/arrays.tar")
    path.write_bytes(path.read_bytes()[:-2048])
    with pytest.raises(BundleError, match="invert unit held-b-"):
        list(open_bundles(changeable.folder / "store").dataset())


def test_a_copy_without_receipts_still_notices_a_cut(changeable):
    store = changeable.folder / "store"
    (path,) = store.glob("bundles/invert/*/held-b*/*/arrays.tar")
    for receipt in store.glob("receipts/invert/*/*.json"):
        receipt.unlink()
    assert len(list(open_bundles(store).dataset())) == 8
    path.write_bytes(path.read_bytes().rstrip(b"\0"))
    with pytest.raises(BundleError, match="no end"):
        list(open_bundles(store).dataset())
