"""A stage with an index of its own: what it declares is enough for index, pointer and everything that follows it."""

import json
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch

from infra.receipts import Address, Ledger
from infra.stores.folder import FolderStore
from pipeline.data.records import put_records, rows_of
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.graph import GRAPH
from pipeline.plan.steps import MapStep
from pipeline.publish import own_index
from pipeline.publish.index import read_index
from pipeline.publish.own_index import OwnIndexOf
from pipeline.publish.pointer import POINTER, OwnPointer, Pointer, address_in, move_pointer, read_pointer
from stages.base.stage import OwnIndex, Record, Stage, Worker

EARLIER = {
    "index": ["bundles/publish/f/index/a/part-00000.parquet"],
    "receipt": "receipts/publish/f/index.json",
    "stages": {"invert": "f"},
    "samples": 3,
    "gaps": {},
    "settings": {"seed": 0},
    "supervision": {"index": ["s"], "shards": "t", "receipt": "receipts/publish/f/supervision.json", "samples": 2},
}
EDITS = {"index": ["e"], "receipt": "receipts/publish/f/edits.json", "fingerprint": "0f"}


class Baseline(Stage):
    name: ClassVar[str] = "baseline"
    reads: ClassVar[tuple[str, ...]] = ("invert",)
    keeps: ClassVar[frozenset] = frozenset({"arrays"})
    own_index: ClassVar[OwnIndex | None] = OwnIndex("baselines")

    def setup(self, device: torch.device) -> Worker:
        return lambda samples: iter(())


class Split(Baseline):
    keeps: ClassVar[frozenset] = frozenset()

    def index_columns(self) -> dict[str, type[str] | type[float]]:
        return {"half": str, "psnr_db": float}

    def index_rows(self, key: str, row: dict) -> Iterator[dict]:
        for half in ("left", "right"):
            yield {"half": f"{key}/{half}", "psnr_db": row["psnr_db"] / 2}


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(FolderStore(tmp_path / "store"))


@pytest.fixture
def units() -> list[Unit]:
    shard = Shard(0, "a.tar", "0" * 64, 4)
    return [Unit(shard, 0, 2), Unit(shard, 2, 4)]


def committed(ledger: Ledger, stage: Stage, units: list[Unit]) -> OwnIndexOf:
    """Commit a unit with a recorded and a quarantined sample, and leave the others without a bundle."""
    step = MapStep(stage, "f00d", {}, Selection())
    attempt = ledger.begin(Address(stage.name, step.fingerprint, units[0].name))
    arrays = {"code": np.zeros(2, np.float32)} if "arrays" in stage.keeps else {}
    record = Record("x", {"psnr_db": 21.5, "w": np.zeros(3, np.float32)}, arrays)
    named = [{"key": key, "shard": "a.tar"} for key in ("x", "y")]
    put_records(attempt, stage, rows_of(named, [record, "baseline: too dark"]), [record])
    attempt.commit({"x": None, "y": "baseline: too dark"}, {})
    return OwnIndexOf(ledger, step, units)


def rows(ledger: Ledger, own: OwnPointer) -> list[dict]:
    return read_index(ledger, ledger.required(address_in(ledger, own.receipt)))


def test_by_default_the_index_has_the_figures_of_each_sample_and_the_place_of_its_arrays(ledger, units):
    index = committed(ledger, Baseline(), units)
    own = index.commit()
    first, second = rows(ledger, own)
    tar = ledger.required(Address("baseline", "f00d", units[0].name)).file("arrays.tar").name
    place = {"unit": units[0].name, "arrays": tar}
    assert first == {"key": "x", "shard": "a.tar", "outcome": "recorded", "reason": None, "psnr_db": 21.5} | place
    assert (second["outcome"], second["reason"]) == ("quarantined", "baseline: too dark")
    assert (second["arrays"], second["psnr_db"]) == (None, None)
    assert own.fingerprint == "f00d"
    assert own.receipt.endswith("/baselines.json")
    assert index.commit() == own, "nothing is written again"


def test_a_stage_may_make_several_rows_of_a_sample(ledger, units):
    own = committed(ledger, Split(), units).commit()
    found = [(row["key"], row["half"], row["psnr_db"]) for row in rows(ledger, own)]
    assert found == [("x", "x/left", 10.75), ("x", "x/right", 10.75), ("y", None, None)]


def test_parts_of_unchanged_units_are_shared_by_the_next_index(ledger, units, monkeypatch):
    monkeypatch.setattr(own_index, "SAMPLES_PER_PART", 1)
    index = committed(ledger, Split(), units)
    first = index.commit()
    committed(ledger, Split(), units[::-1])
    second = index.commit()
    assert second.receipt != first.receipt
    assert second.index[0] == first.index[0]
    assert len(second.index) == 2
    assert len(rows(ledger, second)) == 2 * len(rows(ledger, first))


def test_another_version_of_the_rows_is_another_index(ledger, units, monkeypatch):
    index = committed(ledger, Split(), units)
    before = index.commit()
    monkeypatch.setattr(Split, "own_index", OwnIndex("baselines", version=2))
    assert index.commit().receipt != before.receipt


@pytest.mark.parametrize("plain", [EARLIER, EARLIER | {"edits": EDITS}])
def test_a_pointer_is_the_same_bytes_as_in_earlier_versions(ledger, plain):
    ledger.store.write(POINTER, json.dumps(plain, indent=2).encode())
    pointer = read_pointer(ledger)
    before = (ledger.store.root / POINTER).stat()
    move_pointer(ledger, pointer)
    after = (ledger.store.root / POINTER).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "nothing was written"
    assert set(pointer.own) == set(plain) & {"edits"}


def test_indexes_that_only_another_version_knows_are_kept_and_other_entries_are_ignored():
    pointer = Pointer.model_validate(EARLIER | {"edits": EDITS, "later": EDITS | {"receipt": "r"}, "note": "hello"})
    assert pointer.receipts == {EARLIER["receipt"], EARLIER["supervision"]["receipt"], EDITS["receipt"], "r"}
    assert set(pointer.own) == {"edits", "later"}
    assert json.loads(pointer.model_dump_json()).keys() == EARLIER.keys() | {"edits", "later"}


def test_own_indexes_have_names_of_their_own():
    names = [stage.own_index.name for stage in GRAPH.stages if getattr(stage, "own_index", None) is not None]
    assert names == ["edits"]
    assert not (set(names) & {*Pointer.model_fields, "index", "supervision"})
    assert all(stage.name in GRAPH.optional for stage in GRAPH.stages if getattr(stage, "own_index", None))
