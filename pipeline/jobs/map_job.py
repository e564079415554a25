"""Run one stage over units: read, compute, write and commit, all inside the actor."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infra.bundles import read_arrays, read_rows, write_arrays, write_rows
from infra.errors import DamagedBundleError
from infra.receipts import Address, Attempt, Ledger, Receipt, damage_of
from infra.shards.shards import RawSample, ShardSample
from infra.stores.store import Store
from pipeline.data.inventory import committed_samples
from pipeline.data.receipt_info import UnitInfo
from pipeline.data.trained_segmenter import TrainedSegmenter
from pipeline.data.units import Selection, Unit, outcome_key, sample_of
from pipeline.data.weights import Weights, localised, with_paths
from pipeline.jobs.job import Done
from pipeline.jobs.shared_time import SharedTime
from stages.base.stage import Record, Rejected, Sample, Stage, Worker

ROWS, ARRAYS = "records.parquet", "arrays.tar"
OWN_COLUMNS = {"key": str, "shard": str, "outcome": str, "reason": str}
"""Columns of every bundle's rows."""
_INVENTORIES_KEPT = 8


@dataclass(frozen=True)
class MapJob:
    """One stage over the units of the input."""

    stage: Stage
    fingerprint: str
    sources: tuple[Store, ...]
    ledger: Ledger
    upstream: Mapping[str, str]  # fingerprints of the map stages it reads, by name
    inventories: Mapping[Any, str]  # the inventory's unit of each shard
    selection: Selection
    segmenter: TrainedSegmenter | None = None  # that the stage loads, and this machine may not have yet
    weights: tuple[Weights, ...] = ()  # that the stage names by paths of the driver
    threads: int = 1

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def open(self) -> Callable[[Unit], Done]:
        """Load the stage's networks on this process's device and return the function that runs one unit."""
        torch.set_num_threads(self.threads)
        stage = localised(self.stage, self.weights, self.ledger.store)
        if self.segmenter is not None:
            stage = with_paths(stage, {self.segmenter.path: self.segmenter.fetch(self.ledger)})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return _MapRunner(self, stage.setup(device), _describe(device)).run


class _MapRunner:
    """One actor's side of a `MapJob`."""

    def __init__(self, job: MapJob, worker: Worker, device: str) -> None:
        self.job, self.worker, self.device = job, worker, device
        self.computing = SharedTime()
        self.inventory = functools.lru_cache(_INVENTORIES_KEPT)(self._read_inventory)

    def run(self, unit: Unit) -> Done:
        """Process one unit to its committed bundle.

        Units come on several threads: while one computes, others are read or written. `computed_s` is the unit's share
        of the actor's computing time (`SharedTime`): over the receipts of an actor it adds up to the time in which its
        worker had anything to do, which is what the estimate of hours left needs.
        """
        started = time.time()
        listed = self._listed(unit)
        earlier = {
            name: _Bundle.read(self.job.ledger, Address(name, f, unit.name)) for name, f in self.job.upstream.items()
        }
        results = {outcome_key(s): reason for s in listed if (reason := _known_reason(s, earlier))}
        good = [sample for sample in listed if outcome_key(sample) not in results]
        raw = unit.shard.read(self.job.sources, good)
        samples = [_sample(one, unit.shard.name, earlier) for one in raw]
        with self.computing.use() as share_s:
            computed = list(self.worker(samples))
            computed_s = share_s()
        attempt, outcomes = self._put(unit, listed, {**results, **self._by_key(computed)})
        info = UnitInfo(
            shard=unit.shard.name, device=self.device, started=started, computed_s=computed_s, finished=time.time()
        )
        return Done.of(attempt.commit(outcomes, info.plain()))

    def _by_key(self, computed: Iterable[Record | Rejected]) -> dict[str, Record | str]:
        return {one.key: with_reason(self.job.stage.name, one) for one in computed}

    def _columns(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, type[bool] | type[float] | type[str]]:
        """Return the types of the stage's columns that these rows have."""
        return {name: kind for name, kind in self.job.stage.columns.items() if rows and name in rows[0]}

    def _listed(self, unit: Unit) -> list[ShardSample]:
        name, selection = unit.shard.name, self.job.selection
        chosen = [sample for sample in self.inventory(unit.shard) if selection.includes(name, sample.key)]
        return chosen[unit.first : unit.stop]

    def _read_inventory(self, shard: Any) -> list[ShardSample]:  # noqa: ANN401  # hashable key of the cache
        return committed_samples(self.job.ledger, self.job.inventories[shard])

    def _put(
        self, unit: Unit, listed: Sequence[ShardSample], results: Mapping[str, Record | str]
    ) -> tuple[Attempt, dict[str, str | None]]:
        """Write the files of a unit's bundle; return the attempt and the outcome of every sample."""
        attempt = self.job.ledger.begin(Address(self.job.stage.name, self.job.fingerprint, unit.name))
        records = {key: result for key, result in results.items() if isinstance(result, Record)}
        keys = [outcome_key(sample) for sample in listed]
        rows = rows_of([{"key": key, "shard": unit.shard.name} for key in keys], [results[key] for key in keys])
        named = {"stage": self.job.stage.name, "fingerprint": self.job.fingerprint}
        attempt.put(ROWS, write_rows(rows, named, {**OWN_COLUMNS, **self._columns(rows)}))
        attempt.put(ARRAYS, write_arrays(_arrays(records.values()), self.job.stage.name))
        return attempt, {row["key"]: row["reason"] for row in rows}


@dataclass(frozen=True)
class _Bundle:
    """What an earlier stage committed for a unit."""

    records: Mapping[str, Record]
    quarantined: Mapping[str, str]

    @classmethod
    def read(cls, ledger: Ledger, address: Address) -> _Bundle:
        receipt = ledger.required(address)
        return cls(read_records(ledger, receipt), receipt.quarantined)


def read_records(ledger: Ledger, receipt: Receipt) -> dict[str, Record]:
    """Return the records of a bundle, rows and arrays, by key."""
    rows = {row["key"]: row for row in read_rows(ledger.read_file(receipt, ROWS))}
    arrays = dict(read_arrays(ledger.read_file(receipt, ARRAYS)))
    if missing := [key for key in receipt.recorded if key not in rows]:
        raise DamagedBundleError([damage_of(receipt, f"{ROWS} lacks {missing[0]}, which the receipt says is recorded")])
    return {key: Record(key, rows[key], arrays.get(key, {})) for key in receipt.recorded}


def _known_reason(sample: ShardSample, earlier: Mapping[str, _Bundle]) -> str | None:
    """Return why a sample cannot be processed, if that is known before it is read."""
    if sample.fault is not None:
        return f"inventory: {sample.fault}"
    return next((b.quarantined[sample.key] for b in earlier.values() if sample.key in b.quarantined), None)


def _sample(raw: RawSample, shard: str, earlier: Mapping[str, _Bundle]) -> Sample:
    return sample_of(raw, shard, {name: bundle.records[raw.key] for name, bundle in earlier.items()})


def with_reason(stage: str, computed: Record | Rejected) -> Record | str:
    """Return a record, or the reason why there is none and which stage gave it."""
    return f"{stage}: {computed.reason}" if isinstance(computed, Rejected) else computed


def rows_of(samples: Sequence[Mapping[str, Any]], results: Sequence[Record | str]) -> list[dict[str, Any]]:
    """Return one row for each sample: what names it, its outcome, and its record's values.

    All rows have the same columns; a sample with a reason in place of a record is quarantined, its values are null.
    """
    columns = dict.fromkeys(name for result in results if isinstance(result, Record) for name in result.row)
    rows = []
    for named, result in zip(samples, results, strict=True):
        reason = result if isinstance(result, str) else None
        values = result.row if isinstance(result, Record) else {}
        outcome = "recorded" if reason is None else "quarantined"
        own = {**named, "outcome": outcome, "reason": reason}
        rows.append(own | {name: values.get(name) for name in columns})
    return rows


def _arrays(records: Iterable[Record]) -> Iterable[tuple[str, Mapping[str, NDArray[np.generic]]]]:
    return ((record.key, record.arrays) for record in records if record.arrays)


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
