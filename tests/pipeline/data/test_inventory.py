"""The inventory: each version of a shard read once, each of its samples accounted for."""

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.receipts import Address, Ledger
from infra.shards.shards import write_shard
from infra.stores.folder import FolderStore
from infra.stores.storage import open_store
from infra.stores.store import Entry
from pipeline.data.inventory import FINGERPRINT, STAGE, ListedShard, shard_of
from pipeline.data.units import cut, read_inventory
from pipeline.jobs.inventory_job import InventoryJob
from tests import tiny
from tests.infra.tars import tar


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(open_store(str(tmp_path / "store")))


def scan(shards, ledger, name, *, by_digest=False):
    """Commit the inventory of one shard and return what the job says, and its receipt."""
    source = open_store(str(shards))
    entry = source.entry(name)
    listed = ListedShard(0, entry)
    done = InventoryJob((source,), ledger, by_digest).open()(listed)
    return done, ledger.receipt(Address(STAGE, FINGERPRINT, listed.name))


def test_a_good_shard_is_recorded_whole(shards, ledger):
    write_shard(shards / "a.tar", tiny.samples("a", 3))
    done, receipt = scan(shards, ledger, "a.tar")
    assert (done.recorded, done.quarantined) == (3, 0)
    assert receipt.recorded == ("a-000", "a-001", "a-002")
    assert receipt.info["faults"] == receipt.info["notes"] == []
    assert receipt.info["passed_over"] == {}
    assert receipt.info["bytes"] == (shards / "a.tar").stat().st_size


def test_a_shard_stands_by_the_digest_of_its_content(shards, ledger):
    write_shard(shards / "a.tar", tiny.samples("a", 2))
    shard = shard_of(scan(shards, ledger, "a.tar")[1])
    (entry,) = open_store(str(shards)).list()
    assert (shard.address, shard.name, shard.samples, shard.version) == (0, "a.tar", 2, entry.version)
    assert shard.sha256 == hashlib.sha256((shards / "a.tar").read_bytes()).hexdigest()


def test_each_repetition_of_a_key_has_an_outcome_of_its_own_and_the_first_is_kept(shards, ledger):
    first, second = tiny.samples("a", 2)
    write_shard(shards / "a.tar", [first, second, first, second, first])
    done, receipt = scan(shards, ledger, "a.tar")
    listed = read_inventory(ledger, receipt)
    assert receipt.recorded == ("a-000", "a-001")
    assert set(receipt.quarantined) == {f"{sample.key}@{sample.start}" for sample in listed[2:]}
    assert (done.recorded, done.quarantined) == (2, 3)
    assert [sample.repeated for sample in listed] == [False, False, True, True, True]
    assert all(f"duplicate key {sample.key!r}" in str(sample.fault) for sample in listed[2:])


def test_a_shard_that_ends_early_keeps_what_is_whole(shards, ledger):
    write_shard(shards / "a.tar", tiny.samples("a", 3))
    picture = read_inventory(ledger, scan(shards, ledger, "a.tar")[1])[1].members[0]
    with (shards / "a.tar").open("rb+") as stream:
        stream.truncate(picture.offset + picture.size // 2)
    done, receipt = scan(shards, ledger, "a.tar")
    assert receipt.recorded == ("a-000",)
    assert list(receipt.quarantined) == ["a-001"]
    assert "incomplete" in receipt.quarantined["a-001"]
    assert "upload the shard again" in receipt.info["faults"][0]["message"]
    assert done.recorded + done.quarantined == receipt.info["samples"] == 2


@pytest.mark.parametrize("content", [b"", tar()], ids=["no bytes", "end marker only"])
def test_a_shard_without_samples_is_committed_with_its_fault(shards, ledger, content):
    (shards / "a.tar").write_bytes(content)
    done, receipt = scan(shards, ledger, "a.tar")
    assert (done.recorded, done.quarantined) == (0, 0)
    assert read_inventory(ledger, receipt) == []
    (fault,) = receipt.info["faults"]
    assert "it" in fault["message"]


def test_scanning_the_same_version_again_gives_the_bundle_that_stands(shards, ledger):
    write_shard(shards / "a.tar", tiny.samples("a", 2))
    first, second = scan(shards, ledger, "a.tar")[1], scan(shards, ledger, "a.tar")[1]
    assert second == first
    assert len(list(ledger.receipts(STAGE, FINGERPRINT))) == 1


def test_a_shard_that_changed_though_its_listing_did_not_is_noticed_by_its_digest(shards, ledger):
    """As `rsync -t` and `cp -p` leave it: other content of the same size and modification time."""
    path = shards / "a.tar"
    write_shard(path, tiny.samples("a", 2))
    _, first = scan(shards, ledger, "a.tar")
    status = path.stat()
    write_shard(path, tiny.samples("b", 2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert scan(shards, ledger, "a.tar", by_digest=False)[1] == first
    done, second = scan(shards, ledger, "a.tar", by_digest=True)
    assert (done.unit, second.recorded) == (first.unit, ("b-000", "b-001"))
    assert second.info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert scan(shards, ledger, "a.tar", by_digest=True)[1] == second


def test_what_another_run_scanned_meanwhile_is_not_taken_away(shards, ledger):
    path = shards / "a.tar"
    write_shard(path, tiny.samples("a", 2))
    _, first = scan(shards, ledger, "a.tar")
    status = path.stat()
    write_shard(path, tiny.samples("b", 2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    others = []

    class Slow(FolderStore):
        """While this run reads the shard, a second run has done all of it."""

        def open(self, name):
            if not others:
                others.append(scan(shards, ledger, name, by_digest=True)[1])
            return super().open(name)

    source = Slow(shards)
    done = InventoryJob((source,), ledger, by_digest=True).open()(ListedShard(0, source.entry("a.tar")))
    standing = ledger.receipt(Address(STAGE, FINGERPRINT, done.unit))
    assert standing == others[0] != first


def test_a_thousand_shards_of_sixteen_inputs_are_told_apart(tmp_path, ledger):
    """Shards of the same names and contents in every folder: no inventory, unit or sample is another's."""
    sources = []
    for number in range(16):
        folder = tmp_path / f"input-{number}"
        folder.mkdir()
        for shard in range(63):
            (folder / f"{shard:06d}.tar").write_bytes(tar(("a.png", bytes([shard])), ("b.png", b"1")))
        sources.append(open_store(str(folder)))
    listed = [ListedShard(number, entry) for number, source in enumerate(sources) for entry in source.list()]
    assert len({one.name for one in listed}) == len(listed) == 1008
    scan_one = InventoryJob(tuple(sources), ledger).open()
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(scan_one, listed))
    assert sum(one.recorded for one in done) == 2 * len(listed)
    found = {shard_of(receipt) for receipt in ledger.receipts(STAGE, FINGERPRINT)}
    assert len(found) == len(listed)
    units = [unit for shard in found for unit in cut(shard, shard.samples, 1)]
    assert len({unit.name for unit in units}) == len(units) == 2 * len(listed)


@pytest.mark.parametrize("change", [{"size": 11}, {"version": "w"}, {"name": "other/a.tar"}])
def test_another_version_or_place_of_a_shard_is_another_task(change):
    entry = Entry("a.tar", 10, "v")
    assert ListedShard(0, entry).name != ListedShard(0, dataclasses.replace(entry, **change)).name
    assert ListedShard(0, entry).name == ListedShard(0, dataclasses.replace(entry)).name


def test_one_shard_under_two_inputs_is_two_tasks():
    assert ListedShard(0, Entry("a.tar", 10, "v")).name != ListedShard(1, Entry("a.tar", 10, "v")).name


@pytest.mark.parametrize("name", ["ü b*?.tar", ".tar", "....tar", "deep/.hidden.tar", "²³.tar"])
def test_task_names_fit_an_address_whatever_the_shard_is_called(name):
    listed = ListedShard(0, Entry(name, 10, "v"))
    assert Address(STAGE, FINGERPRINT, listed.name).unit == listed.name
