"""Trains the segmenter on the error maps of the supervision subset and commits its checkpoint."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from infra.receipts import Address, Ledger, Receipt
from infra.shards import read_samples
from infra.store import Store
from pipeline.jobs import Done
from pipeline.map_job import read_records
from pipeline.trained_segmenter import SEGMENTER_FILE
from pipeline.units import Selection, Shard, Unit, read_inventory
from stages.region import Region, fit, to_uint8
from stages.stage import Sample
from stages.train_segmenter import Example, Trained, TrainSegmenter, train

STATE_SPACING_S = 30.0


@dataclass(frozen=True)
class TrainJob:
    """One training, from the committed error maps to a committed checkpoint."""

    stage: TrainSegmenter
    address: Address
    sources: tuple[Store, ...]
    ledger: Ledger
    error_maps: str  # their fingerprint
    units: tuple[Unit, ...]
    inventories: Mapping[Shard, Receipt]
    selection: Selection
    region: Region
    spaces: tuple[str, ...]
    threads: int = 1

    @property
    def name(self) -> str:
        """The stage's name, also of its single task."""
        return self.stage.name

    def open(self) -> Callable[[TrainJob], Done]:
        """Return the function that trains on this process's device."""
        torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return lambda _task: self.run(device)

    def run(self, device: torch.device) -> Done:
        """Train, taking up where a stopped training left its last state, and commit."""
        started = time.time()
        examples = self.examples()
        state = _State(self.ledger.store, self.address)
        trained = train(self.stage, examples, device, spaces=self.spaces, report=state.keep, resume=state.load())
        receipt = self.commit(trained, [example.key for example in examples], started, str(device))
        state.drop()
        return Done.of(receipt)

    def examples(self) -> list[Example]:
        """Return the supervision that may be trained on: every recorded sample that is not held out."""
        return [example for unit in self.units for example in self._examples_of(unit)]

    def commit(self, trained: Trained, keys: list[str], started: float, device: str) -> Receipt:
        """Commit a trained segmenter with its learning curve and the keys that it learned from."""
        attempt = self.ledger.begin(self.address)
        attempt.put(SEGMENTER_FILE, trained.checkpoint)
        attempt.put("curve.json", json.dumps(trained.curve).encode())
        info: dict[str, Any] = {"device": device, "started": started, "finished": time.time()}
        return attempt.commit(dict.fromkeys(keys), info)

    def _examples_of(self, unit: Unit) -> list[Example]:
        receipt = self.ledger.receipt(Address("error_maps", self.error_maps, unit.name))
        if receipt is None:
            return []
        records = read_records(self.ledger, receipt)
        wanted = {key for key in records if self.selection.role(unit.shard.name, key) == "supervision"}
        listed = read_inventory(self.ledger, self.inventories[unit.shard])
        chosen = [sample for sample in listed if sample.key in wanted and sample.fault is None]
        raw = read_samples(self.sources[unit.shard.address], unit.shard.name, chosen)
        return [
            Example(
                key=one.key,
                image_HW3=to_uint8(fit(Sample(one.key, unit.shard.name, one.members).image(), self.region)[None])[0],
                error_LHW=records[one.key].arrays["error_LHW"].astype(np.float16),
            )
            for one in raw
        ]


class _State:
    """The last state of a training under way, one object that is replaced at most every half minute."""

    def __init__(self, store: Store, address: Address) -> None:
        self._store, self._name = store, f"training/{address.fingerprint}/state"
        self._kept_at = time.monotonic()
        self._lock = threading.Lock()

    def keep(self, state: bytes) -> None:
        """Store a state, unless the last is recent."""
        with self._lock:
            if time.monotonic() - self._kept_at >= STATE_SPACING_S:
                self._store.write(self._name, state)
                self._kept_at = time.monotonic()

    def load(self) -> bytes | None:
        """Return the last state that was stored."""
        return self._store.read(self._name) if self._store.exists(self._name) else None

    def drop(self) -> None:
        """Delete the state of a training that is committed."""
        self._store.delete([self._name])
