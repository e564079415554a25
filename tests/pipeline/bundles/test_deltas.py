"""Deltas and masks through a store: what was packed is what batches hold, whatever spaces each image uses."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.harness.bundle_store import enlarge, record_of, write_store
from generators.latents import Codes
from infra.errors import BundleError
from pipeline import open_bundles
from stages.inversion.packing import Arrays, pack_codes, stack_codes, unpack_codes

SHAPES = {"F4": (3, 4, 4), "F6": (2, 8, 8)}
SPACES = ((), ("F4",), ("F4", "F6"), ("F6",), ("F4", "F6"))


def packed(number: int) -> Arrays:
    random = torch.Generator().manual_seed(number)
    deltas, masks = {}, {}
    for space in SPACES[number]:
        deltas[space] = torch.randn(1, *SHAPES[space], generator=random)
        masks[space] = torch.rand(1, 1, *SHAPES[space][1:], generator=random)
    arrays = pack_codes(Codes(torch.randn(1, 6, 5, generator=random), deltas, masks), 0, {"F4": 0.05, "F6": 0.1})
    return arrays | {"assignment_HW": np.full((8, 8), number, np.uint8)}


@pytest.fixture
def store(tmp_path) -> Path:
    """Two units, of three images and of two."""
    records = [record_of(f"a/{number:03d}", packed(number)) for number in range(5)]
    write_store(tmp_path / "store", [records[:3], records[3:]])
    return tmp_path / "store"


def test_batches_across_units_hold_the_deltas_and_masks_of_every_image(store):
    wanted = stack_codes([unpack_codes(None, packed(number)) for number in range(5)], SHAPES)
    batches = list(open_bundles(store).batches(4))
    assert [len(batch) for batch in batches] == [4, 1]
    whole, (last,) = batches[0], batches[1:]
    assert torch.equal(whole.w_plus, wanted.w_plus[:4])
    for space in SHAPES:
        assert torch.equal(whole.deltas[space], wanted.deltas[space][:4])
        assert torch.equal(whole.masks[space], wanted.masks[space][:4])
        assert torch.equal(last.deltas[space], wanted.deltas[space][4:])
    assert whole.assignments[:, 0, 0].tolist() == [0, 1, 2, 3]


def test_one_image_has_its_own_spaces_only(store):
    bundles = open_bundles(store)
    for number, spaces in enumerate(SPACES):
        image = bundles[f"a/{number:03d}"]
        assert set(image.codes.deltas) == set(spaces)
        assert int(image.assignment[0, 0]) == number


def test_a_batch_from_a_worker_is_pickled_as_it_is_stored(store):
    (batch,) = open_bundles(store).dataset(batch=5)
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.deltas["F6"], batch.deltas["F6"])
    assert again.keys == batch.keys
    assert len(pickle.dumps(batch)) < 20_000


def test_a_key_of_two_images_needs_its_unit(store):
    images = [record_of("twice", packed(number)) for number in (1, 2)]
    write_store(store.parent / "two", [images[:1], images[1:]])
    bundles = open_bundles(store.parent / "two")
    with pytest.raises(KeyError, match=r"several images have the key 'twice': give its unit.*unit-000000, unit-000001"):
        bundles["twice"]
    assert set(bundles.image("twice", "unit-000001").codes.deltas) == {"F4", "F6"}


def test_every_key_of_an_index_of_many_parts_is_found(store):
    from infra.receipts import Ledger
    from infra.stores.folder import FolderStore

    enlarge(Ledger(FolderStore(store)), store, 300)
    bundles = open_bundles(store)
    keys = bundles.keys()
    assert len(keys) == len(set(keys)) == 300
    for key in keys[::37]:
        assert bundles[key].key == key


def test_codes_of_an_unknown_version_are_named_with_their_unit(store):
    odd = packed(1) | {"version": np.asarray(7, np.uint8)}
    write_store(store.parent / "new", [[record_of("a", packed(0)), record_of("b", odd)]])
    (batch,) = open_bundles(store.parent / "new").batches(2)
    with pytest.raises(
        BundleError, match=r"invert unit unit-000000: b in .*version 7, expected 1 to 3: install a newer"
    ):
        assert batch.codes
