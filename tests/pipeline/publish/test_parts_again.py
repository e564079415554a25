"""A new index is made of what is new: every version includes the parts that stay the same, without writing them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from infra.bundles import BundleError
from infra.stores.folder import FolderStore
from pipeline.operations.status import status_of
from pipeline.operations.verify import repair, verify_run
from pipeline.publish import grouping
from pipeline.publish.blocks import stacked
from pipeline.publish.contents import CONTENTS, published_parts
from pipeline.publish.index import POINTER, published, read_index
from tests import tiny
from tests.pipeline.conftest import commit_all


@pytest.fixture
def small_parts(committed, monkeypatch):
    """A run whose index has a part for each of its three units."""
    monkeypatch.setattr(grouping, "ROWS_PER_PART", 1)
    committed.file("receipts/publish/*/index.json").unlink()
    assert committed.index().publish().moved
    assert len(parts(committed)) == 3
    return committed


@pytest.fixture
def written(monkeypatch):
    """The names of objects that are written from now on."""
    names = []

    def noting(whole):
        return lambda store, name, data: (names.append(name), whole(store, name, data))[1]

    for method in ("write", "create"):
        monkeypatch.setattr(FolderStore, method, noting(getattr(FolderStore, method)))
    return names


@pytest.fixture
def read(monkeypatch):
    """The names of objects that are read from now on."""
    names, whole = [], FolderStore.read
    monkeypatch.setattr(
        FolderStore, "read", lambda store, name, *more: (names.append(name), whole(store, name, *more))[1]
    )
    return names


def parts(run):
    """Return the names of the published parts."""
    return json.loads((run.folder / "store" / POINTER).read_text())["index"]


def paths(run):
    return [run.folder / "store" / name for name in parts(run)]


def add_shard(run, name):
    tiny.write_shards(run.folder / "shards", {name: 2})
    commit_all(run.plan())


@pytest.mark.parametrize("name", ["a-early", "m-middle", "z-late"])
def test_a_new_shard_adds_a_part_and_writes_no_other_wherever_it_sorts(small_parts, written, name):
    before = parts(small_parts)
    add_shard(small_parts, name)
    written.clear()
    assert small_parts.index().publish().moved
    after = parts(small_parts)
    assert set(before) < set(after)
    assert len(after) == len(before) + 1
    parquet = [each for each in written if each.endswith(".parquet") and "/part/" in each]
    assert parquet == list(set(after) - set(before))
    assert written[-1] == POINTER


def test_only_bundles_of_new_units_are_read_for_a_new_index(small_parts, read):
    add_shard(small_parts, "z-late")
    read.clear()
    assert small_parts.index().publish().moved
    rows = [name for name in read if name.endswith("records.parquet") and "/error_maps/" not in name]
    new = [name for name in rows if "/z-late-" in name]
    assert new
    assert len(rows) - len(new) <= 3, "one unit of each stage says which columns there are"
    assert not [name for name in read if "/part/" in name]


def test_a_shard_that_is_removed_leaves_the_index_and_moves_no_other_part(small_parts, written):
    before = parts(small_parts)
    (small_parts.folder / "shards/train-a.tar").unlink()
    assert small_parts.index().publish().moved
    assert set(parts(small_parts)) < set(before)
    assert {row["shard"] for row in rows(small_parts)} == {"held-b.tar"}
    assert not [name for name in written if name.endswith(".parquet") and "/part/" in name]


def rows(run):
    return read_index(run.plan().ledger, published(run.plan().ledger))


def test_an_earlier_version_stays_readable_after_the_next(small_parts):
    ledger = small_parts.plan().ledger
    first, before = published(ledger), rows(small_parts)
    add_shard(small_parts, "m-middle")
    small_parts.index().publish()
    assert published(ledger).address != first.address
    assert read_index(ledger, first) == before
    assert ledger.verify(first) == []


def test_only_the_part_of_a_unit_that_was_made_again_is_made_again(small_parts):
    before = parts(small_parts)
    small_parts.file("receipts/invert/*/held-b*.json").unlink()
    commit_all(small_parts.plan())
    assert small_parts.index().publish().moved
    assert len(set(before) & set(parts(small_parts))) == len(before) - 1


def test_an_index_that_was_interrupted_includes_the_parts_that_it_had_committed(small_parts, written):
    small_parts.file("receipts/publish/*/index.json").unlink()
    (small_parts.folder / "store" / POINTER).unlink()
    assert small_parts.index().publish().moved
    assert not [name for name in written if name.endswith(".parquet") and "/part/" in name]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"damaged"), Path.unlink])
def test_a_part_that_is_missing_or_of_another_size_is_made_again(small_parts, damage):
    before = [path.read_bytes() for path in paths(small_parts)]
    damage(paths(small_parts)[0])
    add_shard(small_parts, "z-late")
    assert small_parts.index().publish().moved
    assert [path.read_bytes() for path in paths(small_parts)][: len(before)] == before
    assert verify_run(small_parts.plan())[0] == []


def test_altered_bytes_of_a_part_are_found_and_repaired(small_parts):
    before = rows(small_parts)
    path = paths(small_parts)[1]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    problems, _ = verify_run(small_parts.plan())
    assert {problem.damage.unit for problem in problems} == {"part", "index"}
    repair(small_parts.plan(), problems)
    assert small_parts.index().publish().moved
    assert verify_run(small_parts.plan())[0] == []
    assert rows(small_parts) == before


def test_all_parts_have_the_same_columns_even_where_they_have_no_values(small_parts):
    schemas = [ds.dataset(path).schema for path in paths(small_parts)]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert schemas[0].field("error_maps.auroc").type == pa.float64()


def test_status_reads_no_receipts_of_units_whose_sums_the_index_has(small_parts, read):
    before = status_of(small_parts.plan())
    of_units = [name for name in read if name.startswith(("receipts/predict_maps", "receipts/invert"))]
    assert of_units == []
    small_parts.file(f"bundles/publish/*/index/*/{CONTENTS}").unlink()
    assert status_of(small_parts.plan()) == before


def test_status_counts_units_that_were_made_again_since(small_parts, read):
    receipt = small_parts.file("receipts/invert/*/held-b*.json")
    plain = json.loads(receipt.read_text())
    key = next(iter(plain["outcomes"]))
    receipt.write_text(json.dumps(plain | {"outcomes": plain["outcomes"] | {key: "invert: lost"}}))
    read.clear()
    (stage,) = [stage for stage in status_of(small_parts.plan()).stages if stage.name == "invert"]
    assert (stage.recorded, stage.quarantined) == (7, 1)
    assert [name for name in read if name.startswith("receipts/invert")] == [
        receipt.relative_to(small_parts.folder / "store").as_posix()
    ]


def test_an_index_of_an_earlier_version_has_no_parts_to_share(committed):
    contents = committed.file(f"bundles/publish/*/index/*/{CONTENTS}")
    contents.write_text('[{"name": "part-00000.parquet", "made_of": "0", "recorded": 1, "rows": 1}]')
    assert published_parts(committed.plan().ledger) == ()


def test_columns_that_mix_types_are_refused():
    tables = [pa.table({"n": [1]}), pa.table({"n": ["one"]})]
    with pytest.raises(BundleError, match=r"column 'n' mixes int64, string; give every row the same type"):
        stacked(tables, pa.schema([]))


def test_integers_and_floats_become_floats_and_missing_columns_are_null():
    tables = [pa.table({"n": [1], "a": [True]}), pa.table({"n": [2.5], "b": pa.array([None], pa.string())})]
    table = stacked(tables, pa.schema([("b", pa.float64())]))
    assert table.to_pylist() == [{"b": None, "n": 1.0, "a": True}, {"b": None, "n": 2.5, "a": None}]
    assert table.schema.field("b").type == pa.float64()
