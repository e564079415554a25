"""A new index is made of what is new: parts that stay the same are copied, and columns are those of their rows."""

import json

import pyarrow as pa
import pytest

from infra.bundles import write_rows
from infra.errors import BundleError
from infra.stores.folder import FolderStore
from pipeline.publish import build
from pipeline.publish.blocks import Block
from pipeline.publish.index import POINTER
from tests import tiny
from tests.pipeline.conftest import commit_all


@pytest.fixture
def small_parts(committed, monkeypatch):
    """A run whose index has two parts of four rows."""
    monkeypatch.setattr(build, "ROWS_PER_PART", 4)
    committed.file("receipts/publish/*/index.json").unlink()
    assert committed.index().publish().moved
    assert len(parts(committed)) == 2
    return committed


def parts(run):
    pointer = json.loads((run.folder / "store" / POINTER).read_text())
    return [(run.folder / "store" / name).read_bytes() for name in pointer["index"]]


def add_shard(run):
    tiny.write_shards(run.folder / "shards", {"z-late": 2})
    commit_all(run.plan())


def test_only_bundles_of_new_units_are_read_for_a_new_index(small_parts, monkeypatch):
    before = parts(small_parts)
    add_shard(small_parts)
    read, whole = [], FolderStore.read
    monkeypatch.setattr(
        FolderStore, "read", lambda store, name, *more: (read.append(name), whole(store, name, *more))[1]
    )
    assert small_parts.index().publish().moved
    rows = [name for name in read if name.endswith("records.parquet") and "/error_maps/" not in name]
    assert rows
    assert all("/z-late-" in name for name in rows)
    assert parts(small_parts)[:2] == before


def test_only_the_part_of_a_unit_that_was_made_again_is_made_again(small_parts):
    before = parts(small_parts)
    small_parts.file("receipts/invert/*/held-b*.json").unlink()
    commit_all(small_parts.plan())
    assert small_parts.index().publish().moved
    after = parts(small_parts)
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


def test_a_damaged_part_is_made_again_and_not_copied(small_parts):
    before = parts(small_parts)
    small_parts.file("bundles/publish/*/index/*/part-00000.parquet").write_bytes(b"damaged")
    add_shard(small_parts)
    assert small_parts.index().publish().moved
    assert parts(small_parts)[:2] == before


def test_blocks_are_written_as_their_rows_are_to_the_byte():
    rows = [
        {"key": "a", "shard": "s", "outcome": "recorded", "reason": None, "role": None, "n": 1, "x": None, "y": True},
        {"key": "b", "shard": "s", "outcome": "recorded", "reason": None, "role": None, "n": 2.5, "x": None, "y": None},
    ]
    blocks = [Block(1, {name: pa.array([value]) for name, value in row.items()}) for row in rows]
    kinds = dict.fromkeys(("key", "shard", "outcome", "reason", "role"), str)
    assert Block.joined(blocks).parquet({"stage": "publish"}) == write_rows(rows, {"stage": "publish"}, kinds)
    empty = write_rows([], {"stage": "publish"}, kinds)
    assert Block.joined([Block(0, {})]).parquet({"stage": "publish"}) == empty


def test_columns_that_mix_types_are_refused():
    blocks = [Block(1, {"n": pa.array([1])}), Block(1, {"n": pa.array(["one"])})]
    with pytest.raises(BundleError, match=r"column 'n' mixes int64, string; give every row the same type"):
        Block.joined(blocks)
