"""Train the segmenter on the error maps of the supervision subset and commit its checkpoint."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from infra.receipts import Address, Receipt, ReceiptHead
from pipeline.data.receipt_info import TrainingInfo
from pipeline.data.trained_segmenter import CURVE_FILE, PICTURES_FILE, SEGMENTER_FILE, unit_trained_on
from pipeline.data.units import Shard
from pipeline.data.weights import Weights, localised, weights_of
from pipeline.jobs.job import UnitResult
from pipeline.plan.plan import Plan
from pipeline.training.committed_examples import CommittedExamples, Supervision
from pipeline.training.gaps import Gaps
from pipeline.training.pictures import draw_predictions
from pipeline.training.states import StoredStates, drop_states
from stages.train_segmenter import Trained, TrainSegmenter, train


@dataclass(frozen=True)
class TrainJob:
    """One training, from the committed error maps to a committed checkpoint."""

    stage: TrainSegmenter
    address: Address
    supervision: Supervision
    threads: int = 1
    weights: tuple[Weights, ...] = ()  # named by the stage, by paths on the driver

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> TrainJob:
        """Return the training of a run on the present commits."""
        config, gaps = plan.config, Gaps.from_plan(plan, shards)
        supervision = Supervision.from_plan(plan, shards)
        unit = unit_trained_on(gaps.share if gaps.any else 1.0, [unit.name for unit in supervision.committed])
        address = replace(plan.train_segmenter(), unit=unit)
        weights = weights_of(config.train_segmenter, plan.ledger.store, config.compute)
        return cls(config.train_segmenter, address, supervision, config.compute.cpus_per_worker, weights)

    @property
    def name(self) -> str:
        """The stage's name, also that of its single task."""
        return self.stage.name

    def open(self) -> Callable[[TrainJob], UnitResult]:
        """Return the function that trains on this process's device."""
        torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return lambda _task: self.run(device)

    def run(self, device: torch.device) -> UnitResult:
        """Train, resuming from the last state of an interrupted training, and commit."""
        started = time.time()
        trained = train(self.local_stage(), CommittedExamples(self.supervision), device, states=self.states())
        return UnitResult.from_receipt(self.commit(trained, started, str(device)))

    def local_stage(self) -> TrainSegmenter:
        """Return the stage with its weights on this machine; raise `WeightsError` if it cannot get them."""
        return localised(self.stage, self.weights, self.supervision.ledger.store)

    def states(self) -> StoredStates:
        """Return the store of this training's state."""
        units = [unit.name for unit in self.supervision.committed]
        return StoredStates(
            self.supervision.ledger.store, self.address.fingerprint, units, self.stage.checkpoint_every_s
        )

    def commit(self, trained: Trained, started: float, device: str) -> Receipt:
        """Commit a trained segmenter with its curve, its pictures and its training keys; delete its state.

        Excluded examples are quarantined. A key that occurs in several shards is named with its unit.
        """
        keys = list(self.supervision.samples())
        times = Counter(key for _, key in keys)
        outcomes = {
            key if times[key] == 1 else f"{key} of {unit}": trained.rejected.get(unit, {}).get(key)
            for unit, key in keys
        }
        attempt = self.supervision.ledger.begin(self.address)
        attempt.put(SEGMENTER_FILE, trained.checkpoint)
        attempt.put(CURVE_FILE, json.dumps(trained.curve).encode())
        attempt.put(PICTURES_FILE, draw_predictions(trained.predicted, self.supervision.spaces))
        info = TrainingInfo(device=device, started=started, finished=time.time(), target=self.stage.target)
        receipt = attempt.commit(outcomes, info.plain())
        drop_states(self.supervision.ledger.store, self.address.fingerprint)
        return receipt
