"""A bundle is all there or not there at all, whatever process dies at any time."""

import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from infra.errors import BundleError, DamagedBundleError, StoreError
from infra.leftovers import collect
from infra.receipts import Address, Ledger, Receipt
from infra.stores.folder import FolderStore

ADDRESS = Address("invert", "f00d", "shard-000.0007")
OUTCOMES = {"a": None, "b": "not an image", "a@512": "duplicate key"}


@pytest.fixture
def ledger(store):
    return Ledger(store)


@pytest.fixture
def folder_ledger(tmp_path):
    return Ledger(FolderStore(tmp_path / "store"))


def commit(ledger, address=ADDRESS, content=b"rows", outcomes=OUTCOMES):
    attempt = ledger.begin(address)
    attempt.put("rows.parquet", content)
    return attempt.commit(outcomes, {"seconds": 1.5})


def names(ledger):
    return {entry.name for entry in ledger.store.list()}


def test_a_committed_bundle_is_read_back(ledger, tmp_path):
    (tmp_path / "arrays.tar").write_bytes(b"arrays" * 100)
    attempt = ledger.begin(ADDRESS)
    attempt.put("rows.parquet", b"rows")
    entry = attempt.put("arrays.tar", tmp_path / "arrays.tar")
    assert (entry.size, entry.sha256) == (600, hashlib.sha256(b"arrays" * 100).hexdigest())
    receipt = attempt.commit(OUTCOMES, {"seconds": 1.5, "device": "cpu", "versions": {"torch": "2"}})
    assert ledger.receipt(ADDRESS) == receipt
    assert receipt.address == ADDRESS
    assert receipt.info["versions"] == {"torch": "2"}
    assert ledger.read_file(receipt, "rows.parquet") == b"rows"
    assert ledger.read_file(receipt, "arrays.tar") == b"arrays" * 100
    assert ledger.verify(receipt) == []


def test_a_bundle_without_files_can_be_committed(ledger):
    receipt = ledger.begin(ADDRESS).commit({"a": "unreadable"}, {})
    assert receipt.files == ()
    assert ledger.receipt(ADDRESS).quarantined == {"a": "unreadable"}


def test_a_receipt_tells_recorded_from_quarantined(folder_ledger):
    receipt = commit(folder_ledger)
    assert receipt.recorded == ("a",)
    assert receipt.quarantined == {"b": "not an image", "a@512": "duplicate key"}
    assert len(receipt.recorded) + len(receipt.quarantined) == len(receipt.outcomes)


def test_files_alone_make_no_bundle(ledger):
    ledger.begin(ADDRESS).put("rows.parquet", b"rows")
    assert ledger.receipt(ADDRESS) is None
    assert ledger.units("invert", "f00d") == set()
    assert list(ledger.receipts("invert", "f00d")) == []


def test_units_and_receipts_are_those_of_one_stage_and_fingerprint(ledger):
    units = ["s.2", "s.0", "s.10"]
    for unit in units:
        commit(ledger, replace(ADDRESS, unit=unit))
    commit(ledger, replace(ADDRESS, fingerprint="f00d2"))
    commit(ledger, replace(ADDRESS, stage="invert2"))
    assert ledger.units("invert", "f00d") == set(units)
    assert [receipt.unit for receipt in ledger.receipts("invert", "f00d")] == sorted(units)
    assert ledger.units("invert", "none") == set()


def test_the_first_of_two_attempts_stands_and_the_other_leaves_nothing(ledger):
    slow = ledger.begin(ADDRESS)
    slow.put("rows.parquet", b"slow")
    first = commit(ledger, content=b"first")
    before = names(ledger)
    assert slow.commit({"a": "other"}, {}) == first
    assert ledger.receipt(ADDRESS) == first
    assert ledger.read_file(first, "rows.parquet") == b"first"
    assert len(names(ledger)) == len(before) - 1
    assert ledger.verify(first) == []


def test_of_many_attempts_at_once_one_stands_for_all(conditional_store):
    ledger, contenders = Ledger(conditional_store), 8
    gate = Barrier(contenders)

    def contend(number):
        attempt = ledger.begin(ADDRESS)
        attempt.put("rows.parquet", b"%d" % number)
        gate.wait()
        return attempt.commit({}, {"number": number})

    with ThreadPoolExecutor(contenders) as threads:
        receipts = list(threads.map(contend, range(contenders)))
    standing = ledger.receipt(ADDRESS)
    assert receipts == [standing] * contenders
    assert ledger.read_file(standing, "rows.parquet") == b"%d" % standing.info["number"]
    assert names(ledger) == {ADDRESS.receipt_name, standing.files[0].name}


def test_without_conditional_writes_what_stands_is_complete(make_store):
    ledger, contenders = Ledger(make_store("rclone")), 8
    gate = Barrier(contenders)

    def contend(number):
        attempt = ledger.begin(ADDRESS)
        attempt.put("rows.parquet", b"%d" % number)
        gate.wait()
        return attempt.commit({}, {"number": number})

    with ThreadPoolExecutor(contenders) as threads:
        list(threads.map(contend, range(contenders)))
    standing = ledger.receipt(ADDRESS)
    assert ledger.verify(standing) == []
    assert ledger.read_file(standing, "rows.parquet") == b"%d" % standing.info["number"]
    collect(ledger, 0)
    assert names(ledger) == {ADDRESS.receipt_name, standing.files[0].name}


def test_without_conditional_writes_a_receipt_that_is_just_being_written_over_is_not_a_failure(make_store):
    """Some servers show nothing while one file takes another's place."""
    ledger = Ledger(make_store("rclone"))
    attempt = ledger.begin(ADDRESS)
    entry = attempt.put("rows.parquet", b"1")
    store = attempt._store

    class Vanishing(type(store)):
        def create(self, name, data):
            made = store.create(name, data)
            store.delete([name])
            return made

    attempt._store = Vanishing(store.bucket, store.prefix, store.options)
    assert attempt.commit({}, {}).files == (entry,)
    assert store.exists(entry.name)


def test_without_conditional_writes_an_attempt_that_is_overwritten_gives_way(make_store):
    """Both look before either writes; the one that reads the other's receipt back takes its own files away."""
    ledger = Ledger(make_store("rclone"))
    early = ledger.begin(ADDRESS)
    early.put("rows.parquet", b"early")
    store = early._store

    class Overtaken(type(store)):
        def create(self, name, data):
            made = store.create(name, data)
            late = commit(Ledger(self.behind), content=b"late")
            return made and bool(late)

    class Blind(type(store)):
        def exists(self, name):
            return False

    early._store = Overtaken(store.bucket, store.prefix, store.options)
    early._store.behind = Blind(store.bucket, store.prefix, store.options)
    standing = early.commit({}, {})
    assert standing.attempt != early.identity
    assert ledger.read_file(standing, "rows.parquet") == b"late"
    assert names(ledger) == {ADDRESS.receipt_name, standing.files[0].name}


@pytest.mark.parametrize("damage", [b"", b'{"stage": "inv', b"[]", b'{"stage": "invert"}'])
def test_a_truncated_receipt_is_named_and_says_what_to_do(ledger, damage):
    commit(ledger)
    ledger.store.write(ADDRESS.receipt_name, damage)
    with pytest.raises(
        BundleError, match=rf"{ADDRESS.receipt_name} is not a whole receipt .*the next run makes it again"
    ):
        ledger.receipt(ADDRESS)
    with pytest.raises(BundleError, match="not a whole receipt"):
        list(ledger.receipts("invert", "f00d"))
    assert collect(ledger, 0) == 0
    assert len(names(ledger)) == 2


def test_a_receipt_in_the_wrong_place_is_not_believed(folder_ledger):
    other = replace(ADDRESS, unit="other")
    folder_ledger.store.write(other.receipt_name, commit(folder_ledger).model_dump_json().encode())
    with pytest.raises(BundleError, match=r"other.json is the receipt of .*shard-000.0007"):
        folder_ledger.receipt(other)


def test_altered_and_missing_files_are_found(ledger):
    receipt = commit(ledger)
    name = receipt.files[0].name
    ledger.store.write(name, b"rowz")
    assert ledger.verify(receipt) == [
        f"{name} has SHA-256 {hashlib.sha256(b'rowz').hexdigest()}, its receipt says {receipt.files[0].sha256}"
    ]
    with pytest.raises(BundleError, match=r"SHA-256"):
        ledger.read_file(receipt, "rows.parquet")
    ledger.store.write(name, b"longer")
    assert "has 6 bytes, its receipt says 4" in ledger.verify(receipt)[0]
    ledger.store.delete([name])
    assert ledger.verify(receipt) == [f"{name} is missing"]
    with pytest.raises(
        BundleError, match=r"is missing; `verify --repair` sets it aside, and the next run makes it again"
    ):
        ledger.read_file(receipt, "rows.parquet")


def test_a_file_that_the_bundle_does_not_have_is_refused(folder_ledger):
    with pytest.raises(BundleError, match=r"has no file 'x', it has rows\.parquet"):
        folder_ledger.read_file(commit(folder_ledger), "x")


def test_an_attempt_can_be_abandoned(folder_ledger):
    attempt = folder_ledger.begin(ADDRESS)
    attempt.put("rows.parquet", b"rows")
    attempt.abandon()
    assert names(folder_ledger) == set()


def test_a_bundle_that_includes_a_file_of_another_does_not_write_or_delete_it(folder_ledger):
    owner = folder_ledger.begin(Address("publish", "f1", "part"))
    entry = owner.put("rows", b"rows")
    owner.commit({}, {})
    index = folder_ledger.begin(Address("publish", "f2", "index"))
    index.include(entry)
    index.put("contents", b"{}")
    with pytest.raises(BundleError, match="two files named 'rows'"):
        index.put("rows", b"")
    receipt = index.commit({}, {})
    assert folder_ledger.read_file(receipt, "rows") == b"rows"
    lost = folder_ledger.begin(Address("publish", "f2", "index"))
    lost.include(entry)
    assert lost.commit({}, {}) == receipt
    lost.abandon()
    assert folder_ledger.read_file(receipt, "rows") == b"rows"


def test_damage_of_an_included_file_is_that_of_both_bundles(folder_ledger):
    owner = folder_ledger.begin(Address("publish", "f1", "part"))
    entry = owner.put("rows", b"rows")
    owner.commit({}, {})
    index = folder_ledger.begin(Address("publish", "f2", "index"))
    index.include(entry)
    receipt = index.commit({}, {})
    assert folder_ledger.damages(receipt) == folder_ledger.listed_damages(receipt) == []
    folder_ledger.store.write(entry.name, b"rot!")
    assert folder_ledger.listed_damages(receipt) == [], "of the same size"
    found = folder_ledger.damages(receipt)
    assert [(damage.receipt, damage.attempt) for damage in found] == [
        ("receipts/publish/f1/part.json", owner.identity),
        ("receipts/publish/f2/index.json", index.identity),
    ]
    assert "SHA-256" in found[0].what
    assert found[1].what == "its rows is damaged"
    with pytest.raises(DamagedBundleError) as caught:
        folder_ledger.read_file(receipt, "rows")
    assert list(caught.value.damages) == found
    folder_ledger.store.delete([entry.name])
    assert [damage.receipt for damage in folder_ledger.listed_damages(receipt)] == [damage.receipt for damage in found]


def test_two_files_of_one_name_are_refused(folder_ledger):
    attempt = folder_ledger.begin(ADDRESS)
    attempt.put("rows.parquet", b"rows")
    with pytest.raises(BundleError, match=r"two files named 'rows\.parquet'"):
        attempt.put("rows.parquet", b"rows")


def test_a_local_file_that_is_missing_is_named(folder_ledger, tmp_path):
    with pytest.raises(StoreError, match="absent"):
        folder_ledger.begin(ADDRESS).put("rows.parquet", tmp_path / "absent")


@pytest.mark.parametrize("part", ["", "a/b", "..", ".hidden", "a b", "é", "a\n"])
def test_addresses_hold_plain_names_only(folder_ledger, part):
    for field in ("stage", "fingerprint", "unit"):
        with pytest.raises(BundleError, match=f"a {field} holds letters"):
            replace(ADDRESS, **{field: part})
    with pytest.raises(BundleError, match="a file name holds letters"):
        folder_ledger.begin(ADDRESS).put(part, b"")


def test_a_pickled_ledger_sees_the_same_bundles(folder_ledger):
    receipt = commit(folder_ledger)
    assert pickle.loads(pickle.dumps(folder_ledger)).receipt(ADDRESS) == receipt
    assert pickle.loads(pickle.dumps(receipt)) == receipt


def test_a_receipt_survives_its_json(folder_ledger):
    receipt = commit(folder_ledger)
    assert Receipt.model_validate_json(receipt.model_dump_json()) == receipt


KILLING = """
import os, signal, sys
from infra.stores.folder import FolderStore
from infra.receipts import Address, Ledger

def commit(root, lines):
    def trace(frame, event, argument):
        nonlocal lines
        if event == "line" and "infra" in frame.f_code.co_filename:
            lines -= 1
            if lines == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    attempt = Ledger(FolderStore(root)).begin(Address("invert", "f00d", "u"))
    sys.settrace(trace)
    attempt.put("rows.parquet", b"rows" * 1000)
    attempt.put("arrays.tar", b"arrays" * 1000)
    attempt.commit({"a": None}, {})
    os._exit(0)

lines, killed = 0, True
while killed:
    lines += int(sys.argv[2])
    process = os.fork() or commit(f"{sys.argv[1]}/{lines}", lines)
    killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
"""


def test_a_process_killed_at_any_line_leaves_a_whole_bundle_or_none(tmp_path):
    """A committing process is killed at every fifth line it executes, each time in a folder of its own."""
    subprocess.run([sys.executable, "-c", KILLING, str(tmp_path), "5"], check=True)
    address, outcomes = Address("invert", "f00d", "u"), []
    roots = sorted(tmp_path.iterdir(), key=lambda root: int(root.name))
    for root in roots:
        ledger = Ledger(FolderStore(root))
        receipt = ledger.receipt(address)
        outcomes.append(receipt is not None)
        assert not receipt or ledger.verify(receipt) == []
        collect(ledger, 0)
        kept = {address.receipt_name, *(entry.name for entry in receipt.files)} if receipt else set()
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == kept, root.name
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 20
    assert outcomes[-1]
