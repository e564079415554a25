"""What may be deleted: nothing that a published version, the configuration or a run at work needs."""

import json
import os
import time
import uuid

import pytest
import yaml

from infra.receipts import Address
from infra.stores.storage import open_store
from pipeline.errors import RunError
from pipeline.operations.garbage import delete, garbage_of
from pipeline.operations.verify import verify_run
from pipeline.publish.index import published, read_index
from pipeline.publish.pointer import read_pointer
from pipeline.training.states import StoredStates
from tests import tiny
from tests.pipeline.conftest import Committed, commit_all, compute

INDEXES, ATTEMPTS, STATES, OTHERS = range(4)


def age(run: Committed, days: float = 30.0) -> None:
    """Make every object of the store old; the listing order of versions stays."""
    for path in (run.folder / "store").rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * 86400
            os.utime(path, (then, then))


def publish(run: Committed) -> None:
    assert run.index().publish().moved


def add_shard(run: Committed, name: str) -> None:
    tiny.write_shards(run.folder / "shards", {name: 2})
    commit_all(run.plan())
    publish(run)


def names(run: Committed, **options) -> list[list[str]]:
    return [list(garbage.names) for garbage in garbage_of(run.plan(), **options)]


def invert_again(run: Committed, *overrides: str) -> str:
    """Commit the inversions of a run under other settings, and return their fingerprint."""
    plan = run.plan(*overrides)
    step = plan.map_steps(plan.ledger.receipt(plan.train_segmenter())).last
    compute(plan, step)
    return step.fingerprint


def test_a_complete_store_has_no_garbage(committed):
    age(committed)
    assert names(committed, superseded=True) == [[], [], [], []]


def test_replaced_versions_go_with_the_parts_that_only_they_include(committed):
    first = read_pointer(committed.plan().ledger).receipt
    add_shard(committed, "late")
    second = read_pointer(committed.plan().ledger).receipt
    add_shard(committed, "later")
    age(committed)
    assert first in names(committed, keep=2)[INDEXES]
    assert second not in names(committed, keep=2)[INDEXES]
    assert {first, second} < set(names(committed)[INDEXES])
    before = read_index(committed.plan().ledger, published(committed.plan().ledger))
    found = garbage_of(committed.plan())
    size = {path: len(data) for path, data in committed.files().items()}
    assert found[INDEXES].size_bytes == sum(size[name] for name in found[INDEXES].names)
    count = delete(committed.plan().ledger, found)
    assert count == sum(len(garbage.names) for garbage in found) > 4
    assert committed.files().keys().isdisjoint(name for garbage in found for name in garbage.names)
    assert verify_run(committed.plan())[0] == []
    assert read_index(committed.plan().ledger, published(committed.plan().ledger)) == before
    assert names(committed) == [[], [], []]


def test_a_version_that_was_replaced_just_now_stays(committed):
    add_shard(committed, "late")
    assert names(committed)[INDEXES] == []


def test_the_version_that_is_pointed_to_stays_however_old_it_is(committed):
    pointer = (committed.folder / "store/published.json").read_bytes()
    first = read_pointer(committed.plan().ledger).receipt
    add_shard(committed, "late")
    (committed.folder / "store/published.json").write_bytes(pointer)
    age(committed)
    assert first not in names(committed)[INDEXES]


def test_files_of_attempts_go_a_day_after_they_were_written(committed):
    ledger = committed.plan().ledger
    attempt = ledger.begin(Address("invert", "0" * 16, "unit"))
    entry = attempt.put("records.parquet", b"dead")
    assert names(committed)[ATTEMPTS] == []
    age(committed, days=1.1)
    assert names(committed)[ATTEMPTS] == [entry.name]


def test_states_of_trainings_that_ended_go(committed):
    plan = committed.plan()
    for fingerprint in (plan.train_segmenter().fingerprint, "0123456789abcdef"):
        states = StoredStates(plan.ledger.store, fingerprint, ["unit"], every_s=0)
        states.keep(b"state")
        states.close()
    assert [name.split("/")[1] for name in names(committed)[STATES]] == [plan.train_segmenter().fingerprint]


def test_results_of_other_settings_go_only_when_asked_for_and_after_a_day(committed):
    other = invert_again(committed, "invert.schedule.steps=2")
    assert names(committed, superseded=True)[OTHERS] == []
    age(committed)
    assert len(names(committed)) == 3
    found = garbage_of(committed.plan(), superseded=True)
    assert {name.split("/")[2] for name in found[OTHERS].names} == {other}
    assert {name.split("/")[0] for name in found[OTHERS].names} == {"receipts", "bundles"}
    delete(committed.plan().ledger, found)
    assert verify_run(committed.plan())[0] == []
    assert not committed.plan().ledger.units("invert", other)


def test_results_that_a_kept_version_leads_to_stay(committed):
    publish(committed)
    now = read_pointer(committed.plan().ledger).stages["invert"]
    other = invert_again(committed, "invert.schedule.steps=2")
    assert committed.index("invert.schedule.steps=2").publish().moved
    age(committed)
    assert names(committed, superseded=True, keep=2)[OTHERS] == []
    third = committed.settings("invert.schedule.steps=3")
    assert third.invert.schedule.steps == 3
    plan = committed.plan("invert.schedule.steps=3")
    gone = garbage_of(plan, superseded=True, keep=1)[OTHERS].names
    assert {name.split("/")[2] for name in gone} == {now}, f"the pointer leads to {other}"


def test_a_kept_version_that_does_not_state_what_it_leads_to_is_named(committed):
    first = read_pointer(committed.plan().ledger).receipt
    add_shard(committed, "late")
    path = committed.folder / "store" / first
    plain = json.loads(path.read_text())
    del plain["info"]["stages"]
    path.write_text(json.dumps(plain))
    os.utime(path, (time.time() - 40 * 86400,) * 2)
    with pytest.raises(RunError, match=f"{first} does not state which results it leads to"):
        garbage_of(committed.plan(), superseded=True, keep=2)
    age(committed)
    assert garbage_of(committed.plan(), superseded=True, keep=1)[OTHERS].names == ()


def test_what_is_superseded_is_unknown_before_a_segmenter_is_trained(committed):
    committed.file("receipts/train_segmenter/*/*.json").unlink()
    with pytest.raises(RunError, match="known only once the segmenter of this configuration is trained"):
        garbage_of(committed.plan(), superseded=True)


def test_the_command_deletes_only_when_told_to(committed, invertmill):
    add_shard(committed, "late")
    age(committed)
    before = committed.files()
    status, output, _ = invertmill("gc", committed.folder / "run.yaml", "--keep", "1")
    assert status == 0
    assert "nothing was deleted: --delete does it" in output
    assert committed.files() == before
    status, output, _ = invertmill("gc", committed.folder / "run.yaml", "--keep", "1", "--delete", "--json")
    said = json.loads(output)
    after = committed.files()
    assert said["deleted"]
    assert sum(row["files"] for row in said["garbage"]) == len(before) - len(after) > 0
    assert sum(row["bytes"] for row in said["garbage"]) == sum(len(before[name]) for name in before.keys() - after)
    assert verify_run(committed.plan())[0] == []


@pytest.fixture
def in_s3(committed, ministack, use_server):
    """A complete run whose store is in a bucket; its shards are in the folder."""
    use_server(ministack)
    address = f"s3://{ministack.make_bucket(f'garbage-{uuid.uuid4().hex[:12]}')}/store"
    store = open_store(address)
    for name, data in committed.files().items():
        store.write(name, data)
    settings = yaml.safe_load((committed.folder / "run.yaml").read_text())
    (committed.folder / "run.yaml").write_text(yaml.safe_dump(settings | {"output": address}))
    publish(committed)
    return committed


def test_the_same_goes_in_object_storage(in_s3):
    ledger = in_s3.plan().ledger
    first = read_pointer(ledger).receipt
    ledger.begin(Address("invert", "0" * 16, "unit")).put("records.parquet", b"dead")
    other = invert_again(in_s3, "invert.schedule.steps=2")
    add_shard(in_s3, "late")
    assert names(in_s3, superseded=True) == [[], [], [], []]
    found = garbage_of(in_s3.plan(), superseded=True, grace_s=-60)
    assert first in found[INDEXES].names
    assert len(found[ATTEMPTS].names) == 1
    assert {name.split("/")[2] for name in found[OTHERS].names} == {other}
    delete(ledger, found)
    assert verify_run(in_s3.plan())[0] == []
    assert names(in_s3, superseded=True, grace_s=-60) == [[], [], [], []]
    left = {entry.name for entry in ledger.store.list()}
    assert left.isdisjoint(name for garbage in found for name in garbage.names)
