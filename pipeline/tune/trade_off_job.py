"""Takes some samples through a sweep of thresholds inside an actor, and commits what came of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from infra.bundles import write_rows
from infra.receipts import Address, Ledger
from infra.stores.store import Store
from pipeline.data.inventory import committed_samples
from pipeline.data.receipt_info import TradeOffInfo
from pipeline.data.units import Role, Shard, Unit, sample_of
from pipeline.data.weights import Weights, localised
from pipeline.jobs.job import Done
from pipeline.jobs.map_job import OWN_COLUMNS, ROWS, read_records, rows_of, with_reason
from stages.base.stage import Sample, Worker
from stages.trade_off import TradeOff


@dataclass(frozen=True)
class Chosen:
    """A sample of the curve."""

    unit: Unit
    key: str
    role: Role | None


@dataclass(frozen=True)
class Part:
    """Samples of one curve that are inverted together, unit by unit; a task."""

    curve: str  # stands for its samples and thresholds
    number: int
    parts: int
    samples: tuple[Chosen, ...]

    @property
    def name(self) -> str:
        """The unit of its bundle."""
        return f"{self.curve}-{self.number:03d}-of-{self.parts:03d}"


@dataclass(frozen=True)
class TradeOffJob:
    """One sweep over the parts of a curve."""

    stage: TradeOff
    fingerprint: str
    sources: tuple[Store, ...]
    ledger: Ledger
    upstream: Mapping[str, str]  # fingerprints of predict_maps and refine_maps
    inventories: Mapping[Shard, str]  # the inventory's unit of each shard
    weights: tuple[Weights, ...] = ()  # that the stage names by paths of the driver
    threads: int = 1

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def open(self) -> Callable[[Part], Done]:
        """Load the networks on this process's device and return the function that takes one part through the sweep."""
        torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        worker = localised(self.stage, self.weights, self.ledger.store).setup(device)
        return lambda part: self._run(part, worker, str(device))

    def _run(self, part: Part, worker: Worker, device: str) -> Done:
        started = time.time()
        samples = [
            sample
            for unit, chosen in itertools.groupby(part.samples, key=lambda one: one.unit)
            for sample in self._samples(unit, [one.key for one in chosen])
        ]
        results = list(worker(samples))
        named = [
            {"key": one.key, "shard": one.unit.shard.name, "unit": one.unit.name, "role": one.role}
            for one in part.samples
        ]
        rows = rows_of(named, [with_reason(self.name, result) for result in results])
        attempt = self.ledger.begin(Address(self.name, self.fingerprint, part.name))
        origin = {"stage": self.name, "fingerprint": self.fingerprint}
        attempt.put(ROWS, write_rows(rows, origin, {**OWN_COLUMNS, "unit": str, "role": str}))
        outcomes = {f"{row['unit']}/{row['key']}": row["reason"] for row in rows}
        info = TradeOffInfo(curve=part.curve, parts=part.parts, device=device, started=started, finished=time.time())
        return Done.of(attempt.commit(outcomes, info.plain()))

    def _samples(self, unit: Unit, keys: list[str]) -> list[Sample]:
        """Return samples of one unit with what was predicted and refined for them, in the order of the keys."""
        records = {
            name: read_records(self.ledger, self.ledger.required(Address(name, upstream, unit.name)))
            for name, upstream in self.upstream.items()
        }
        everything = committed_samples(self.ledger, self.inventories[unit.shard])
        listed = [sample for sample in everything if sample.key in set(keys) and sample.fault is None]
        read = {raw.key: raw for raw in unit.shard.read(self.sources, listed)}
        return [sample_of(read[key], unit.shard.name, {name: of[key] for name, of in records.items()}) for key in keys]
