"""Units side by side in one actor: they meet in the worker, and leave what each leaves alone."""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from infra.receipts import Attempt
from pipeline.execution.hosts import IN_FLIGHT
from pipeline.jobs.map_job import HELD, MapJob
from stages.base.stage import Record, Stage

MEETING = threading.Barrier(HELD)
PATIENCE_S = 20
ALIVE: list[weakref.ref] = []


class Meeting(Stage):
    """Waits until as many units as an actor computes and writes have come."""

    name: ClassVar = "meeting"

    def setup(self, device: torch.device):
        """Return a worker that lets nobody go before all have come."""

        def work(samples):
            MEETING.wait(PATIENCE_S)
            return (Record(sample.key) for sample in samples)

        return work


def side_by_side(job: MapJob, units):
    """Run units as an actor does; return their receipts and the seconds that it took."""
    started, run = time.monotonic(), job.open()
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        list(threads.map(run, units))
    taken_s = time.monotonic() - started
    return list(job.ledger.receipts(job.stage.name, job.fingerprint)), taken_s


def job_of(plan, step):
    shards = plan.inventories()
    inventories = {shard: receipt.unit for shard, receipt in shards.items()}
    job = MapJob(step.stage, step.fingerprint, plan.sources, plan.ledger, step.upstream, inventories, step.selection)
    return job, plan.units(shards, step.selection)


def test_units_side_by_side_leave_what_each_leaves_alone(committed):
    plan = committed.plan()
    for step in (plan.error_maps(), *plan.map_steps(plan.ledger.receipt(plan.train_segmenter()))):
        alone = list(plan.ledger.receipts(step.stage.name, step.fingerprint))
        job, units = job_of(plan, step)
        together, taken_s = side_by_side(replace(job, fingerprint=f"{step.fingerprint}-again"), units)
        assert len(alone) == len(units) == IN_FLIGHT
        assert [one.outcomes for one in together] == [one.outcomes for one in alone]
        assert [one.file("arrays.tar").sha256 for one in together] == [one.file("arrays.tar").sha256 for one in alone]
        shares_s = [float(str(one.info["computed_s"])) for one in together]
        assert min(shares_s) > 0
        assert {one.info["precision"] for one in together} == {step.stage.precision_on(torch.device("cpu"))}
        assert sum(shares_s) < taken_s


def test_an_actor_leaves_it_to_the_worker_what_must_not_overlap(committed):
    plan = committed.plan()
    job, units = job_of(plan, replace(plan.error_maps(), stage=Meeting(), fingerprint="once", upstream={}))
    receipts, _ = side_by_side(job, units[:HELD])
    assert len(receipts) == HELD


class Large(Stage):
    """Records arrays, and notes how many of them are in memory."""

    name: ClassVar = "large"
    keeps: ClassVar = frozenset({"arrays"})

    def setup(self, device: torch.device):
        """Return a worker whose results come at once."""

        def work(samples):
            records = []
            for sample in samples:
                array = np.zeros(1000)
                ALIVE.append(weakref.ref(array))
                records.append(Record(sample.key, arrays={"array": array}))
            return iter(records)

        return work


def test_a_slow_store_does_not_fill_the_memory_with_results(committed, monkeypatch):
    """Results of three units are ready long before the first is written; those of two may be in memory."""
    plan = committed.plan()
    job, units = job_of(plan, replace(plan.error_maps(), stage=Large(), fingerprint="once", upstream={}))
    ALIVE.clear()
    most, commit = [], Attempt.commit

    def slow(attempt, *arguments):
        time.sleep(0.3)
        most.append(sum(array() is not None for array in ALIVE))
        return commit(attempt, *arguments)

    monkeypatch.setattr(Attempt, "commit", slow)
    receipts, _ = side_by_side(job, units)
    sizes = sorted(len(receipt.recorded) for receipt in receipts)
    assert len(sizes) > HELD
    assert min(sizes) <= max(most) <= sum(sizes[-HELD:]) < sum(sizes)
