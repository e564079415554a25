"""Preparing, computing and recording overlap, in one call and across calls; shown by events that wait for each other.

Without the overlap a test's `meet` would wait in vain, and say so.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages import batched_worker as module
from stages.batched_worker import BEHIND, batched_worker
from stages.errors import BadSampleError
from stages.stage import Record, Rejected, Sample

PATIENCE_S = 20


def samples(count, prefix=""):
    return [Sample(f"{prefix}{i}", "shard", {}) for i in range(count)]


def keys(results):
    return [one.key for one in results]


def records(group):
    return [Record(key) for key in group]


def meet(event):
    assert event.wait(PATIENCE_S), "nothing else went on meanwhile"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def key_of(sample):
    return sample.key


def test_results_come_in_the_order_of_the_samples_whichever_is_ready_first(monkeypatch):
    monkeypatch.setattr(module, "PREPARING", 2)
    second = threading.Event()

    def prepare(sample):
        meet(second) if sample.key == "0" else second.set()
        return sample.key

    assert keys(batched_worker(prepare, records, 3)(samples(8))) == [str(i) for i in range(8)]


def test_batches_are_full_but_for_the_last_and_no_samples_make_none():
    sizes = []

    def compute(group):
        sizes.append(len(group))
        return records(group)

    worker = batched_worker(key_of, compute, 3)
    assert len(list(worker(samples(7)))) == 7
    assert list(worker([])) == []
    assert sizes == [3, 3, 1]


def test_a_rejected_sample_stands_where_it_was_and_is_not_computed():
    def prepare(sample):
        if sample.key in "0 4 6 7 8":
            raise BadSampleError(f"{sample.key} is black")
        return sample.key

    computed = []

    def compute(group):
        computed.append(list(group))
        return (Rejected(key, "non-finite") if key == "5" else Record(key) for key in group)

    found = list(batched_worker(prepare, compute, 3)(samples(10)))
    assert keys(found) == [str(i) for i in range(10)]
    assert [one.key for one in found if isinstance(one, Rejected)] == ["0", "4", "5", "6", "7", "8"]
    assert found[4] == Rejected("4", "4 is black")
    assert computed == [["1", "2"], ["3", "5"], ["9"]]


def test_the_next_batch_is_prepared_while_one_is_computed():
    ready = threading.Event()

    def prepare(sample):
        if sample.key == "3":
            ready.set()
        return sample.key

    def compute(group):
        meet(ready)
        return records(group)

    assert len(list(batched_worker(prepare, compute, 2)(samples(4)))) == 4


def test_records_are_made_while_the_next_batch_is_computed():
    computing = {key: threading.Event() for key in "0246"}

    def compute(group):
        computing[group[0]].set()
        return _made(group)

    def _made(group):
        if group[0] != "6":
            meet(computing[str(int(group[0]) + 2)])
        yield from records(group)

    assert len(list(batched_worker(key_of, compute, 2)(samples(8)))) == 8


def test_a_call_computes_after_another_that_it_prepares_beside_and_that_records_beside_it():
    first_computes, second_is_ready, second_computes = (threading.Event() for _ in range(3))
    device = threading.Lock()

    def prepare(sample):
        if sample.key == "b1":
            second_is_ready.set()
        return sample.key

    def compute(group):
        assert device.acquire(blocking=False), "two calls compute at once"
        try:
            if group[0] == "a2":  # the last batch of the first call
                first_computes.set()
                meet(second_is_ready)
            if group[0] == "b0":
                second_computes.set()
        finally:
            device.release()
        return _made(group)

    def _made(group):
        if group[0] == "a2":
            meet(second_computes)
        yield from records(group)

    worker = batched_worker(prepare, compute, 2)
    with ThreadPoolExecutor() as callers:
        first = callers.submit(worker, samples(4, "a"))
        meet(first_computes)
        second = callers.submit(worker, samples(4, "b"))
        assert keys(first.result()) == ["a0", "a1", "a2", "a3"]
        assert keys(second.result()) == ["b0", "b1", "b2", "b3"]


def test_no_more_is_held_than_two_batches_of_prepared_samples_and_the_records_behind():
    held, most, lock = {"prepared": 0, "unrecorded": 0}, {"prepared": 0, "unrecorded": 0}, threading.Lock()

    def count(what, change):
        with lock:
            held[what] += change
            most[what] = max(most[what], held[what])

    def prepare(sample):
        count("prepared", 1)
        return sample.key

    def compute(group):
        count("unrecorded", 1)
        count("prepared", -len(group))
        return _made(group)

    def _made(group):
        yield from records(group)
        count("unrecorded", -1)

    assert len(list(batched_worker(prepare, compute, 4)(samples(60)))) == 60
    assert held == {"prepared": 0, "unrecorded": 0}
    assert most["prepared"] <= 8
    assert most["unrecorded"] <= BEHIND + 1


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
@pytest.mark.parametrize("key", ["0", "5", "11"])
def test_an_error_anywhere_reaches_the_caller_and_the_worker_goes_on_with_the_next_call(where, key):
    broken = True

    def fail(here, failing):
        if broken and (here, failing) == (where, key):
            raise RuntimeError(f"{where} of {key}")

    def prepare(sample):
        fail("prepare", sample.key)
        return sample.key

    def compute(group):
        for one in group:
            fail("compute", one)
        return _made(group)

    def _made(group):
        for one in group:
            fail("record", one)
            yield Record(one)

    worker = batched_worker(prepare, compute, 3)
    with pytest.raises(RuntimeError, match=f"{where} of {key}"):
        list(worker(samples(12)))
    broken = False
    assert keys(worker(samples(12))) == keys(samples(12))


def test_a_caller_that_takes_one_result_and_leaves_blocks_no_other():
    worker = batched_worker(key_of, records, 2)
    begun = worker(samples(9))
    assert next(begun) == Record("0")
    assert len(list(worker(samples(9)))) == 9
