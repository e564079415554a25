"""What a run that ended well removes: nothing that anybody needs."""

import json
import os
import time

import pytest

from infra.receipts import Address
from pipeline.execution.leftovers import remove_leftovers
from pipeline.operations.verify import verify_run
from pipeline.publish.pointer import POINTER, read_pointer
from pipeline.training.states import StoredStates


@pytest.fixture
def plan(committed):
    return committed.plan()


def test_a_store_without_leftovers_stays_as_it_is(committed, plan):
    before = committed.files()
    assert remove_leftovers(plan) == 0
    assert committed.files() == before


def test_states_of_committed_trainings_go_and_those_of_others_stay(plan):
    for fingerprint in (plan.train_segmenter().fingerprint, "0123456789abcdef"):
        states = StoredStates(plan.ledger.store, fingerprint, ["unit"], every_s=0)
        states.keep(b"state")
        states.close()
    assert remove_leftovers(plan) == 1
    assert [entry.name.split("/")[1] for entry in plan.ledger.store.list("training/")] == ["0123456789abcdef"]


def test_the_state_of_a_training_that_nobody_resumed_is_removed_after_a_week(plan):
    store = plan.ledger.store
    for fingerprint, days in (("abandoned", 8), ("recent", 6)):
        states = StoredStates(store, fingerprint, ["unit"], every_s=0)
        states.keep(b"state")
        states.close()
        (entry,) = store.list(f"training/{fingerprint}/")
        os.utime(store.root / entry.name, (time.time() - days * 86400,) * 2)
    assert remove_leftovers(plan) == 1
    assert [entry.name.split("/")[1] for entry in store.list("training/")] == ["recent"]


def test_an_index_goes_a_week_after_there_is_a_newer_one(committed, plan):
    store = plan.ledger.store
    first = read_pointer(plan.ledger).receipt
    path = store.root / first
    next_receipt = path.parent.with_name("f" * len(path.parent.name)) / path.name
    next_receipt.parent.mkdir()
    next_receipt.write_text(path.read_text().replace(path.parent.name, next_receipt.parent.name))
    name = next_receipt.relative_to(store.root).as_posix()
    store.write(POINTER, store.read(POINTER).replace(first.encode(), name.encode()))
    month, day = time.time() - 30 * 86400, time.time() - 86400
    os.utime(path, (month, month))
    os.utime(next_receipt, (day, day))
    assert remove_leftovers(plan) == 0
    os.utime(next_receipt, (time.time() - 8 * 86400,) * 2)
    count = remove_leftovers(plan)
    assert count > 1
    assert not path.exists()
    assert next_receipt.exists()


def test_a_run_with_leftovers_is_whole_after_they_are_removed(committed, plan):
    name = next(entry.name for entry in plan.ledger.store.list("bundles/invert/"))
    unit, _, _ = name.rpartition("/")[0].rpartition("/")
    plan.ledger.store.write(f"{unit}/{'0' * 16}/records.parquet", b"dead")
    assert remove_leftovers(plan) == 1
    assert verify_run(committed.plan())[0] == []


def test_a_part_goes_a_week_after_it_was_made_if_no_index_includes_it(committed, plan):
    store, month = plan.ledger.store, time.time() - 30 * 86400
    included = json.loads(store.read(POINTER))["index"]
    own = committed.file("receipts/publish/*/part.json")
    for name, age in (("0" * 32, month), ("1" * 32, time.time() - 86400)):
        attempt = plan.ledger.begin(Address("publish", name, "part"))
        attempt.put(f"part-{name}.parquet", b"rows")
        attempt.commit({}, {})
        os.utime(store.root / f"receipts/publish/{name}/part.json", (age, age))
    os.utime(own, (month, month))
    assert remove_leftovers(plan) == 2
    assert not list(store.list("bundles/publish/" + "0" * 32))
    assert len(list(store.list("bundles/publish/" + "1" * 32))) == 1
    assert all(store.exists(name) for name in included)


def test_no_part_goes_while_an_index_cannot_be_read(committed, plan):
    for path in (committed.folder / "store/receipts/publish").rglob("*.json"):
        os.utime(path, (time.time() - 30 * 86400,) * 2)
    committed.file("receipts/publish/*/index.json").write_text("{")
    before = committed.files()
    assert remove_leftovers(plan) == 0
    assert committed.files() == before
