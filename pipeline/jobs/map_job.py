"""Run one stage over units: read, compute, write and commit, all inside the actor."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue

from infra.receipts import Address, Attempt, Ledger
from infra.stores.store import Store
from pipeline.data.reading import Chosen, Cut, Reader, Recorded, no_members
from pipeline.data.receipt_info import UnitInfo
from pipeline.data.records import SHARD_OFFSET, put_records, rows_of, with_reason
from pipeline.data.start_codes import StartCodes, starting
from pipeline.data.trained_networks import TrainedEncoder, TrainedSegmenter
from pipeline.data.units import Selection, Shard, Unit, outcome_key
from pipeline.data.weights import Weights, localised, with_paths
from pipeline.jobs.job import UnitResult
from pipeline.jobs.shared_time import SharedTime
from stages.base.device import choose_kernels, process_device
from stages.base.stage import Record, Sample, Stage, Worker
from stages.inversion.stage import InvertingStage
from stages.invert import Invert

HELD = 2
"""Units of an actor whose results may be in memory: one is computed, one is written."""


@dataclass(frozen=True)
class ChosenSamples:
    """A task of samples chosen by key, those of one unit next to each other; `name` is its unit.

    Its rows also have the columns `unit` and `role`, its outcomes are named `UNIT/KEY`, and `info` is in its receipt.
    """

    name: str
    samples: tuple[Chosen, ...]
    info: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class MapJob:
    """One stage over units of the input, or over chosen samples."""

    stage: Stage
    fingerprint: str
    sources: tuple[Store, ...]
    ledger: Ledger
    upstream: Mapping[str, str]  # fingerprints of the map stages it reads, by name
    inventories: Mapping[Shard, str]  # the inventory's unit of each shard
    selection: Selection
    segmenter: TrainedSegmenter | None = None  # the stage loads it, and this machine may not have it yet
    encoder: TrainedEncoder | None = None  # likewise
    weights: tuple[Weights, ...] = ()  # named by the stage, by paths on the driver
    threads: int = 1
    cuts: Mapping[str, Cut] = field(default_factory=dict)  # of stages it reads whose units differ from these, by name
    start: StartCodes | None = None  # earlier inversions that samples carry, if the stage starts from some
    samples_ahead: int = 0  # left for a worker

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def open(self) -> Callable[[Unit | ChosenSamples], UnitResult]:
        """Load the stage's networks on this process's device and return the function that runs one task."""
        torch.set_num_threads(self.threads)
        stage = localised(self.stage, self.weights, self.ledger.store)
        if self.segmenter is not None:
            stage = with_paths(stage, {self.segmenter.path: self.segmenter.fetch(self.ledger)})
        if self.encoder is not None:
            assert isinstance(stage, Invert)
            stage = stage.with_encoder(self.encoder.fetch(self.ledger))
        if isinstance(stage, InvertingStage):
            stage = stage.model_copy(update={"samples_ahead": self.samples_ahead})
        device = process_device()
        precision = stage.precision_on(device)
        choose_kernels(precision or "fp32")
        return _MapRunner(self, stage.setup(device), _describe(device), precision).run


@dataclass(frozen=True)
class _Named:
    """A sample of a task, or why there is none; the name of its outcome, and the columns that name its row."""

    outcome: str
    columns: Mapping[str, str | int | None]
    sample: Sample | str


class _MapRunner:
    """One actor's side of a `MapJob`."""

    def __init__(self, job: MapJob, worker: Worker, device: str, precision: str | None) -> None:
        self.job, self.worker, self.device, self.precision = job, worker, device, precision
        self.computing = SharedTime()
        self.room = threading.Semaphore(HELD)
        self.upstream = [Recorded(name, digest, job.cuts.get(name)) for name, digest in job.upstream.items()]
        self.members = None if job.stage.needs_members else no_members
        self.reader = Reader(job.ledger, job.sources, job.inventories, job.selection)

    def run(self, task: Unit | ChosenSamples) -> UnitResult:
        """Process one task to its committed bundle.

        Tasks come on several threads: while one computes, others are read or written. However slow the store is, no
        more than `HELD` tasks have results in memory: another task waits with its samples.

        `computed_s` is the task's share of the actor's computing time (`SharedTime`): over the receipts of an actor it
        adds up to the time in which its worker had anything to do, which the estimate of hours left needs.
        """
        started = time.time()
        named = list(self._unit(task) if isinstance(task, Unit) else self._chosen(task))
        with self.room:
            return self._computed(task, named, started)

    def _computed(self, task: Unit | ChosenSamples, named: Sequence[_Named], started: float) -> UnitResult:
        """Compute the samples of a task, write their results and commit them."""
        samples = {i: one.sample for i, one in enumerate(named) if isinstance(one.sample, Sample)}
        with self.computing.use() as share_s:
            computed = dict(zip(samples, self.worker(list(samples.values())), strict=True))
            computed_s = share_s()
        results = [
            one.sample if isinstance(one.sample, str) else with_reason(self.job.name, computed[i])
            for i, one in enumerate(named)
        ]
        attempt, outcomes = self._put(task.name, named, results)
        finished = time.time()
        if isinstance(task, ChosenSamples):
            about: dict[str, JsonValue] = {"device": self.device, "started": started, "finished": finished}
            about |= {"precision": self.precision}
            return UnitResult.from_receipt(attempt.commit(outcomes, {**task.info, **about}))
        info = UnitInfo(
            shard=task.shard.name,
            device=self.device,
            started=started,
            computed_s=computed_s,
            finished=finished,
            precision=self.precision,
        )
        return UnitResult.from_receipt(attempt.commit(outcomes, info.plain()))

    def _unit(self, unit: Unit) -> Iterator[_Named]:
        given = self._given(unit)
        for listed, sample in self.reader.read(unit, None, self.upstream, self.members):
            key = outcome_key(listed)
            place = {SHARD_OFFSET: listed.start} if self.job.stage.located else {}
            yield _Named(key, {"key": key, "shard": unit.shard.name, **place}, starting(sample, given))

    def _chosen(self, task: ChosenSamples) -> Iterator[_Named]:
        for unit, group in itertools.groupby(task.samples, key=lambda one: one.unit):
            chosen, given = list(group), self._given(unit)
            listed = self.reader.chosen(unit, [one.key for one in chosen])
            read = self.reader.read(unit, listed, self.upstream, self.members)
            for one, (_, sample) in zip(chosen, read, strict=True):
                columns = {"key": one.key, "shard": unit.shard.name, "unit": unit.name, "role": one.role}
                yield _Named(f"{unit.name}/{one.key}", columns, starting(sample, given))

    def _given(self, unit: Unit) -> Mapping[str, Record]:
        return self.job.start.of(unit) if self.job.start is not None else {}

    def _put(
        self, unit: str, named: Sequence[_Named], results: Sequence[Record | str]
    ) -> tuple[Attempt, dict[str, str | None]]:
        """Write the files of a task's bundle; return the attempt and the outcome of every sample."""
        attempt = self.job.ledger.begin(Address(self.job.name, self.job.fingerprint, unit))
        rows = rows_of([one.columns for one in named], results)
        put_records(attempt, self.job.stage, rows, [result for result in results if isinstance(result, Record)])
        return attempt, {one.outcome: row["reason"] for one, row in zip(named, rows, strict=True)}


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
