"""Preparing, computing and recording overlap, in one call and across calls; shown by events that wait for each other.

Without the overlap a test's `meet` would wait in vain, and say so.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from generators.errors import GeneratorError
from stages.base import batched_worker as module
from stages.base.batched_worker import BEHIND, batched_worker
from stages.base.errors import BadSampleError, WeightsError
from stages.base.stage import Record, Rejected, Sample

PATIENCE_S = 20


def samples(count, prefix=""):
    return [Sample(f"{prefix}{i}", "shard", {}) for i in range(count)]


def keys(results):
    return [one.key for one in results]


def records(group):
    return [Record(key) for key in group]


def meet(event):
    assert event.wait(PATIENCE_S), "nothing else ran meanwhile"


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


def test_batches_are_full_except_the_last_and_no_samples_make_none():
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


def test_a_call_prepares_and_records_while_a_second_call_computes():
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


def test_no_more_is_held_than_two_batches_of_prepared_samples_and_the_records_after():
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
def test_an_error_that_no_sample_causes_reaches_the_caller_and_the_worker_continues_with_the_next_call(where, key):
    broken = True

    def fail(here, failing):
        if broken and (here, failing) == (where, key):
            raise WeightsError(f"{where} of {key}")

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
    with pytest.raises(WeightsError, match=f"{where} of {key}"):
        list(worker(samples(12)))
    broken = False
    assert keys(worker(samples(12))) == keys(samples(12))


def test_a_caller_that_takes_one_result_and_leaves_blocks_no_other():
    worker = batched_worker(key_of, records, 2)
    begun = worker(samples(9))
    assert next(begun) == Record("0")
    assert len(list(worker(samples(9)))) == 9


# --- what samples make a stage raise ----------------------------------------------------------------------------------


def failing_worker(where, bad, batch, error=lambda key: KeyError(f"{key} at 0x7f00dead1234")):
    """A worker that raises at some samples, where it says; and the batches that it computed."""
    computed = []

    def fail(here, key):
        if here == where and key in bad:
            raise error(key)

    def prepare(sample):
        fail("prepare", sample.key)
        return sample.key

    def compute(group):
        computed.append(list(group))
        for one in group:
            fail("compute", one)
        return made(group)

    def made(group):
        for one in group:
            fail("record", one)
            yield Record(one)

    return batched_worker(prepare, compute, batch), computed


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize("bad", [{"0"}, {"5"}, {"10"}, {"3", "4", "5"}, {"0", "10"}])
def test_what_a_sample_makes_a_stage_raise_rejects_that_sample_alone(where, batch, bad):
    worker, _ = failing_worker(where, bad, batch)
    found = list(worker(samples(11)))
    assert keys(found) == [str(i) for i in range(11)]
    assert {one.key for one in found if isinstance(one, Rejected)} == bad


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
def test_the_reason_names_the_error_in_the_same_words_every_time(where):
    worker, _ = failing_worker(where, {"1"}, 4)
    (rejected,) = [one for one in worker(samples(3)) if isinstance(one, Rejected)]
    assert rejected.reason.startswith("the stage failed on this sample (KeyError: '1 …')")


@pytest.mark.parametrize("where", ["compute", "record"])
def test_a_bad_sample_found_while_computing_is_rejected_with_its_own_words(where):
    worker, _ = failing_worker(where, {"1"}, 4, lambda key: BadSampleError(f"{key} is black"))
    assert list(worker(samples(3)))[1] == Rejected("1", "1 is black")


def test_the_culprit_is_found_by_halves_and_what_was_recorded_before_it_is_kept():
    worker, computed = failing_worker("record", {"9"}, 16)
    assert sum(isinstance(one, Record) for one in worker(samples(16))) == 15
    again = [list(range(9, 13)), [9, 10], [9], [10], [11, 12], [13, 14, 15]]
    assert computed[1:] == [[str(number) for number in group] for group in again]


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
@pytest.mark.parametrize(("count", "batch"), [(2, 1), (2, 2), (7, 3)])
def test_what_every_sample_of_a_call_meets_is_not_a_samples_fault(where, count, batch):
    worker, _ = failing_worker(where, {str(i) for i in range(count)}, batch)
    with pytest.raises(KeyError, match="0 at 0x7f00dead1234"):
        worker(samples(count))


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
def test_the_only_sample_of_a_call_is_rejected(where):
    worker, _ = failing_worker(where, {"0"}, 4)
    assert isinstance(next(worker(samples(1))), Rejected)


@pytest.mark.parametrize("where", ["prepare", "compute", "record"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        SystemError("AST constructor recursion depth mismatch"),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        WeightsError("no such network"),
        GeneratorError("another generator"),
    ],
)
def test_full_memory_a_failed_device_and_unusable_weights_reject_nothing(where, error):
    worker, _ = failing_worker(where, {"1"}, 2, lambda _key: error)
    with pytest.raises(type(error)):
        worker(samples(5))


def test_samples_computed_again_wait_for_their_turn():
    device = threading.Lock()

    def compute(group):
        assert device.acquire(blocking=False), "two calls compute at once"
        try:
            if "a1" in group:
                raise ValueError("a1")
        finally:
            device.release()
        return records(group)

    worker = batched_worker(key_of, compute, 2)
    with ThreadPoolExecutor() as callers:
        results = [callers.submit(worker, samples(12, prefix)) for prefix in "abab"]
        found = [list(one.result()) for one in results]
    assert [sum(isinstance(one, Rejected) for one in of_call) for of_call in found] == [1, 0, 1, 0]
