"""Train the segmenter on the error maps of the supervision subset and commit its checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from infra.receipts import Ledger, Receipt, ReceiptHead
from pipeline.data.receipt_info import TrainingInfo
from pipeline.data.trained_networks import CURVE_FILE, PICTURES_FILE, SEGMENTER_FILE, unit_trained_on
from pipeline.data.units import Shard
from pipeline.data.weights import localised, weights_of
from pipeline.plan.plan import Plan
from pipeline.training.committed_examples import CommittedExamples, Supervision
from pipeline.training.gaps import Gaps
from pipeline.training.job import TrainingJob, Wrap, outcomes_of
from pipeline.training.pictures import draw_predictions
from pipeline.training.states import StoredStates, drop_states
from stages.train_segmenter import Trained, TrainSegmenter, train
from stages.training.workers import Workers


@dataclass(frozen=True, kw_only=True)
class TrainJob(TrainingJob[Trained]):
    """The training of a segmenter, from committed error maps."""

    stage: TrainSegmenter
    supervision: Supervision

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> TrainJob:
        """Return the training of a run on the present commits."""
        config, gaps = plan.config, Gaps.from_plan(plan, shards)
        supervision = Supervision.from_plan(plan, shards)
        unit = unit_trained_on(gaps.share if gaps.any else 1.0, [unit.name for unit in supervision.committed])
        return cls(
            address=replace(plan.train_segmenter(), unit=unit),
            threads=config.compute.cpus_per_worker,
            weights=weights_of(config.train_segmenter, plan.ledger.store, config.compute),
            stage=config.train_segmenter,
            supervision=supervision,
        )

    @property
    def ledger(self) -> Ledger:
        """Where the error maps are."""
        return self.supervision.ledger

    def trained(self, device: torch.device, workers: Workers, wrap: Wrap) -> Trained:
        """Train on the committed error maps; raise `WeightsError` if this machine cannot get the weights."""
        stage = localised(self.stage, self.weights, self.ledger.store)
        examples = CommittedExamples(self.supervision)
        return train(stage, examples, device, states=self.states(), workers=workers, wrap=wrap)

    def states(self) -> StoredStates:
        """Return the store of this training's state."""
        return self.states_of([unit.name for unit in self.supervision.committed], self.stage.checkpoint_every_s)

    def commit(self, trained: Trained, started: float, device: str) -> Receipt:
        """Commit a trained segmenter with its curve, its pictures and its training keys; delete its state."""
        attempt = self.ledger.begin(self.address)
        attempt.put(SEGMENTER_FILE, trained.checkpoint)
        attempt.put(CURVE_FILE, json.dumps(trained.curve).encode())
        attempt.put(PICTURES_FILE, draw_predictions(trained.predicted, self.supervision.spaces))
        info = TrainingInfo(device=device, started=started, finished=time.time(), target=self.stage.target)
        receipt = attempt.commit(outcomes_of(self.supervision.samples(), trained.rejected), info.plain())
        drop_states(self.ledger.store, self.address.fingerprint)
        return receipt
