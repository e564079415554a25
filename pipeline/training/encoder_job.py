"""Train the SAM encoder on the assigned images and commit its checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from infra.receipts import Ledger, Receipt, ReceiptHead
from pipeline.data.receipt_info import TrainingInfo
from pipeline.data.trained_networks import CURVE_FILE, ENCODER_FILE
from pipeline.data.units import Shard
from pipeline.data.weights import localised, weights_of
from pipeline.plan.plan import Plan
from pipeline.plan.steps import Steps
from pipeline.training.encoder_examples import Assigned, AssignedExamples
from pipeline.training.job import TrainingJob, Wrap, outcomes_of
from pipeline.training.states import StoredStates, drop_states
from stages.train_encoder import TrainedEncoder, TrainEncoder, train_encoder
from stages.training.workers import Workers


@dataclass(frozen=True, kw_only=True)
class EncoderJob(TrainingJob[TrainedEncoder]):
    """The training of an encoder, from committed assignments."""

    stage: TrainEncoder
    assigned: Assigned

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead], steps: Steps) -> EncoderJob:
        """Return the training of a run on the present commits; raise `RunError` as `Assigned.from_plan` does."""
        stage = plan.stage(TrainEncoder)
        return cls(
            address=plan.train_encoder(steps),
            threads=plan.config.compute.cpus_per_worker,
            weights=weights_of(stage, plan.ledger.store, plan.config.compute),
            stage=stage,
            assigned=Assigned.from_plan(plan, shards, steps),
        )

    @property
    def ledger(self) -> Ledger:
        """Where the assignments are."""
        return self.assigned.ledger

    def trained(self, device: torch.device, workers: Workers, wrap: Wrap) -> TrainedEncoder:
        """Train on the committed assignments; raise `WeightsError` if this machine cannot get the weights."""
        stage = localised(self.stage, self.weights, self.ledger.store)
        examples = AssignedExamples(self.assigned)
        return train_encoder(stage, examples, device, states=self.states(), workers=workers, wrap=wrap)

    def states(self) -> StoredStates:
        """Return the store of this training's state."""
        return self.states_of([unit.name for unit in self.assigned.committed], self.stage.checkpoint_every_s)

    def commit(self, trained: TrainedEncoder, started: float, device: str) -> Receipt:
        """Commit a trained encoder with its curve and its training keys; delete its state."""
        attempt = self.ledger.begin(self.address)
        attempt.put(ENCODER_FILE, trained.checkpoint)
        attempt.put(CURVE_FILE, json.dumps(trained.curve).encode())
        info = TrainingInfo(device=device, started=started, finished=time.time())
        receipt = attempt.commit(outcomes_of(self.assigned.images(), trained.rejected), info.plain())
        drop_states(self.ledger.store, self.address.fingerprint)
        return receipt
