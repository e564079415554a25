"""What interrupted attempts leave goes as soon as nobody can commit it, and never before."""

import os
from dataclasses import replace

import pytest

from infra.damage import set_aside
from infra.leftovers import collect
from infra.receipts import Ledger, damage_of
from infra.stores.s3 import S3Store
from infra.stores.store import RESERVED_PREFIX
from tests.infra.test_receipts import ADDRESS, commit, names


@pytest.fixture
def ledger(store):
    return Ledger(store)


def begun(ledger, address, content=b"dead"):
    attempt = ledger.begin(address)
    attempt.put("rows.parquet", content)
    attempt.put("arrays.tar", content)
    return attempt


def test_a_live_attempt_is_left_alone_and_commits(ledger):
    other = replace(ADDRESS, unit="other")
    live = begun(ledger, other)
    receipt = commit(ledger)
    assert collect(ledger) == 0
    assert ledger.verify(live.commit({}, {})) == []
    assert ledger.verify(receipt) == []


def test_files_of_another_attempt_than_the_receipts_go_at_once_where_it_cannot_commit(ledger):
    dead = begun(ledger, ADDRESS)
    receipt = commit(ledger)
    assert collect(ledger) == (2 if ledger.store.conditional else 0)
    assert ledger.verify(receipt) == []
    assert dead.commit({}, {}) == receipt  # as it would have been
    assert names(ledger) == {ADDRESS.receipt_name, receipt.files[0].name}


def test_files_without_a_receipt_go_when_they_are_old(ledger):
    receipt = commit(ledger)
    begun(ledger, replace(ADDRESS, stage="edit"))
    begun(ledger, ADDRESS)
    assert collect(ledger, grace_s=3600) == (2 if ledger.store.conditional else 0)
    assert collect(ledger, grace_s=-5) == (2 if ledger.store.conditional else 4)
    assert collect(ledger, grace_s=-5) == 0
    assert names(ledger) == {ADDRESS.receipt_name, receipt.files[0].name}


def test_files_whose_receipt_cannot_be_read_stay(ledger):
    commit(ledger)
    begun(ledger, ADDRESS)
    before = names(ledger)
    ledger.store.write(ADDRESS.receipt_name, b"{}")
    assert collect(ledger, grace_s=-5) == 0
    assert names(ledger) == before


def test_what_was_set_aside_as_damaged_stays(ledger):
    damaged = commit(ledger)
    set_aside(ledger.store, damage_of(damaged, "altered"))
    receipt = commit(ledger)
    assert collect(ledger, grace_s=-5) == 0
    assert {damaged.files[0].name, receipt.files[0].name} <= names(ledger)


def test_hidden_files_of_dead_writers_go_when_they_are_old(tmp_path, make_store):
    store = make_store("folder")
    commit(Ledger(store))
    hidden = [store.root / f"{RESERVED_PREFIX}{name}.part" for name in ("old", "new")]
    for path in hidden:
        path.write_bytes(b"half")
    os.utime(hidden[0], (1e9, 1e9))
    assert collect(Ledger(store)) == 1
    assert [path.exists() for path in hidden] == [False, True]


def test_unfinished_uploads_are_aborted_when_they_are_old(make_store):
    store = make_store("ministack")
    store._api.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}bundles/large")
    assert collect(Ledger(store)) == 0
    assert collect(Ledger(store), grace_s=-5) == 1


def test_only_units_with_several_attempts_cost_a_request_each(make_store, monkeypatch):
    ledger = Ledger(make_store("ministack"))
    for number in range(5):
        commit(ledger, replace(ADDRESS, unit=f"unit-{number}"))
    begun(ledger, replace(ADDRESS, unit="unit-3"))
    read, fetch = [], S3Store._fetch
    monkeypatch.setattr(S3Store, "_fetch", lambda store, name, *part: read.append(name) or fetch(store, name, *part))
    assert collect(ledger) == 2
    assert read == [replace(ADDRESS, unit="unit-3").receipt_name]
