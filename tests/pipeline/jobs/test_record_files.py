"""Named files of records: committed as a WebDataset tar, verified like every file, read back, and never half there."""

import os
import signal
import sys
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import webdataset

from infra.errors import BundleError, DamagedBundleError
from infra.leftovers import collect
from infra.receipts import Address, Ledger
from infra.shards.shards import write_shard
from infra.stores.folder import FolderStore
from pipeline.data.reading import Reader, Recorded, no_members
from pipeline.data.records import FILES, put_records, read_records, rows_of
from pipeline.data.units import Selection
from pipeline.jobs.map_job import MapJob
from stages.base.stage import Record, Rejected, Stage
from tests import tiny
from tests.pipeline.conftest import scan_input

ODD_KEYS = ("ordner/ä ß-1", "日本語", "a b+c", 'quote\'s "key"', "-dash", "x,y;z=1")


class Drawing(Stage):
    """Copies each picture under two names; a picture whose key ends in 2 is refused."""

    name: ClassVar = "drawing"
    keeps: ClassVar = frozenset({"files"})

    def setup(self, device: torch.device):
        """Return the worker."""

        def work(samples):
            for sample in samples:
                if sample.key.endswith("2"):
                    yield Rejected(sample.key, "not this one")
                else:
                    picture = sample.members["png"]
                    yield Record(sample.key, {"bytes": len(picture)}, files=files_of(sample.key, picture))

        return work


class Careless(Drawing):
    """Does not say that it keeps files."""

    name: ClassVar = "careless"
    keeps: ClassVar = frozenset()


def files_of(key: str, picture: bytes) -> dict[str, bytes]:
    return {"edited.png": picture, "about.txt": key.encode()}


def drawn(run, stage=None):
    """Run the stage over all units; return the plan, the job, the units and the receipts."""
    plan = run.plan()
    shards = plan.inventories()
    inventories = {shard: receipt.unit for shard, receipt in shards.items()}
    job = MapJob(stage or Drawing(), "f00d", plan.sources, plan.ledger, {}, inventories, Selection())
    units, work = plan.units(shards, plan.everything), job.open()
    for unit in units:
        work(unit)
    return plan, job, units, list(plan.ledger.receipts(job.name, job.fingerprint))


def read_back(plan, receipts) -> dict[str, Record]:
    """Return the records of all bundles with their files."""
    found = {}
    for receipt in receipts:
        found |= read_records(plan.ledger.read_file, receipt, arrays=(), files=True)
    return found


@pytest.fixture
def odd(fresh):
    """A run whose only shard has samples with odd keys."""
    for path in (fresh.folder / "shards").iterdir():
        path.unlink()
    samples = [{"__key__": key, "png": tiny.picture(i)} for i, key in enumerate(ODD_KEYS)]
    write_shard(fresh.folder / "shards/train-a.tar", samples)
    scan_input(fresh.plan())
    return fresh


def test_files_are_committed_with_their_checksum_and_read_back(committed):
    plan, _, _, receipts = drawn(committed)
    assert [[entry.filename for entry in receipt.files] for receipt in receipts] == [["records.parquet", FILES]] * 3
    assert all(plan.ledger.verify(receipt) == [] for receipt in receipts)
    found = read_back(plan, receipts)
    assert set(found) == {f"train-a-{i:03d}" for i in (0, 1, 3, 4)} | {f"held-b-{i:03d}" for i in (0, 1)}
    for key, record in found.items():
        assert dict(record.files) == files_of(key, tiny.picture(int(key[-3:])))


def test_a_later_stage_reads_the_files_of_the_keys_that_it_asks_for(committed):
    plan, job, units, _ = drawn(committed)
    reader = Reader(plan.ledger, plan.sources, job.inventories)
    wanted = [Recorded("drawing", "f00d", arrays=(), files=True)]
    (unit,) = [unit for unit in units if unit.shard.name == "held-b.tar"]
    read = list(reader.read(unit, reader.chosen(unit, ["held-b-001", "held-b-002"]), wanted, no_members))
    (_, sample), (_, reason) = read
    assert dict(sample.records["drawing"].files) == files_of("held-b-001", tiny.picture(1))
    assert reason == "drawing: not this one"


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_files_with_the_samples_keys(odd):
    plan, *_, receipts = drawn(odd)
    found = {}
    for receipt in receipts:
        path = odd.folder / "store" / receipt.file(FILES).name
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
            found[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert found == {key: files_of(key, tiny.picture(i)) for i, key in enumerate(ODD_KEYS)}
    assert list(read_back(plan, receipts)) == list(ODD_KEYS)


def test_equal_records_give_equal_bytes(committed):
    *_, job, units, first = drawn(committed)
    again = replace(job, fingerprint="again")
    work = again.open()
    for unit in units:
        work(unit)
    second = list(job.ledger.receipts(job.name, "again"))
    assert [one.file(FILES).sha256 for one in first] == [one.file(FILES).sha256 for one in second]


def test_a_damaged_file_is_found_and_named(committed):
    plan, *_, receipts = drawn(committed)
    path = committed.folder / "store" / receipts[0].file(FILES).name
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(bytes(data))
    assert [FILES in problem for problem in plan.ledger.verify(receipts[0])] == [True]
    with pytest.raises(DamagedBundleError, match=r"files\.tar has SHA-256"):
        read_records(plan.ledger.read_file, receipts[0], arrays=(), files=True)


def test_a_unit_without_any_record_has_an_empty_tar(committed):
    plan = committed.plan()
    attempt = plan.ledger.begin(Address("drawing", "none", "u"))
    put_records(attempt, Drawing(), rows_of([{"key": "a", "shard": "s"}], ["drawing: not this one"]), [])
    receipt = attempt.commit({"a": "drawing: not this one"}, {})
    assert read_records(plan.ledger.read_file, receipt, arrays=(), files=True) == {}


def test_a_stage_that_does_not_keep_files_cannot_commit_any(committed):
    with pytest.raises(BundleError, match="records of careless hold files"):
        drawn(committed, Careless())
    assert list(committed.plan().ledger.receipts("careless", "f00d")) == []


@pytest.mark.parametrize("name", ["Edited.PNG", "a/b.png"])
def test_names_that_webdataset_would_change_are_refused(committed, name):
    attempt = committed.plan().ledger.begin(Address("drawing", "names", "u"))
    record = Record("a", files={name: b"x"})
    with pytest.raises(BundleError, match="would be read back"):
        put_records(attempt, Drawing(), rows_of([{"key": "a", "shard": "s"}], [record]), [record])


def test_a_process_killed_while_it_commits_files_leaves_a_whole_bundle_or_none(tmp_path):
    """A committing process is killed at every twentieth line it executes in `infra`, each time in a new folder."""
    lines, killed, complete = 0, True, []
    while killed:
        lines += 20
        root = tmp_path / str(lines)
        process = os.fork() or _commit_and_die(root, lines)
        killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
        ledger = Ledger(FolderStore(root))
        receipt = ledger.receipt(Address("drawing", "f00d", "u"))
        complete.append(receipt is not None)
        if receipt is not None:
            assert ledger.verify(receipt) == []
            (record,) = read_records(ledger.read_file, receipt, arrays=(), files=True).values()
            assert dict(record.files) == files_of("a", b"picture")
        collect(ledger, 0)
        kept = {receipt.address.receipt_name, *(entry.name for entry in receipt.files)} if receipt else set()
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == kept
    assert complete == sorted(complete)
    assert complete.count(False) > 5
    assert complete[-1]


def _commit_and_die(root, lines):
    def trace(frame, event, _argument):
        nonlocal lines
        if event == "line" and "/infra/" in frame.f_code.co_filename:
            lines -= 1
            if lines == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    record = Record("a", files=files_of("a", b"picture"))
    attempt = Ledger(FolderStore(root)).begin(Address("drawing", "f00d", "u"))
    sys.settrace(trace)
    put_records(attempt, Drawing(), rows_of([{"key": "a", "shard": "s"}], [record]), [record])
    attempt.commit({"a": None}, {})
    os._exit(0)
