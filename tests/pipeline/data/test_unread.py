"""Unread input is listed by shard and counted by kind."""

import gzip

from infra.receipts import Ledger
from infra.stores.storage import open_store
from pipeline.data.inventory import FINGERPRINT, STAGE, ListedShard, shard_of
from pipeline.data.unread import SHOWN, Unread
from pipeline.jobs.inventory_job import InventoryJob
from tests.infra.tars import tar

GOOD = tar(("a.png", b"1"))


def unread(tmp_path, inputs):
    """Return what was not read of several input folders, given as files by name."""
    sources = []
    for number, files in enumerate(inputs):
        (tmp_path / str(number)).mkdir()
        for name, data in files.items():
            (tmp_path / str(number) / name).write_bytes(data)
        sources.append(open_store(str(tmp_path / str(number))))
    ledger = Ledger(open_store(str(tmp_path / "store")))
    scan = InventoryJob(tuple(sources), ledger).open()
    for number, source in enumerate(sources):
        for entry in source.list():
            scan(ListedShard(number, entry))
    return Unread.from_inventories({shard_of(r): r for r in ledger.receipts(STAGE, FINGERPRINT)}, sources)


def test_an_input_that_was_read_whole_says_nothing(tmp_path):
    found = unread(tmp_path, [{"a.tar": GOOD}])
    assert list(found.lines()) == []
    assert (found.faults, found.notes, found.passed_over) == ({}, {}, {})


def test_faults_are_counted_by_kind_and_listed_by_shard(tmp_path):
    zipped = {"a.tar": gzip.compress(GOOD), "b.tar": GOOD, "c.tar": GOOD[:700], "d.tar": GOOD[:1024]}
    first, *lines = unread(tmp_path, [zipped]).lines()
    assert first == "not read: 3 of 4 shards, or parts of them (1 compressed, 2 truncated)"
    assert [line.split(":")[0] for line in lines] == ["  a.tar", "  c.tar", "  d.tar"]
    assert "has no end marker, and members may be missing" in lines[2]  # cut between two samples


def test_shards_of_one_name_in_several_inputs_are_told_apart(tmp_path):
    found = unread(tmp_path, [{"a.tar": b""}, {"a.tar": b""}])
    assert set(found.messages()) == {f"{tmp_path / str(number)}/a.tar" for number in (0, 1)}


def test_many_faulty_shards_are_told_in_part(tmp_path):
    lines = list(unread(tmp_path, [{f"{number:03d}.tar": b"" for number in range(SHOWN + 5)}]).lines())
    assert len(lines) == 1 + SHOWN + 1
    assert lines[-1] == "  and 5 more: shard_faults in summary.json"


def test_what_belongs_to_no_sample_is_counted_without_being_a_fault(tmp_path):
    members = [("a.png", b"1"), (".a.png", b"1"), ("._a.png", b"1"), ("b.png", "symlink"), ("d", "folder")]
    found = unread(tmp_path, [{"a.tar": tar(*members)}])
    assert found.faults == {}
    assert found.passed_over == {"folders": 1, "hidden files": 1, "links": 1, "macOS metadata files": 1}
    assert list(found.lines()) == [
        "passed over: 1 hidden files, 1 links, 1 macOS metadata files, which belong to no sample; tar --dereference "
        "--hard-dereference stores what links lead to"
    ]
