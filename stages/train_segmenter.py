"""Train the segmenter on stored error maps: the l2 fit of Eq. 3.2, as one function of torch alone (thesis 3.1).

The same function runs in one process and, data-parallel, in several: see `pipeline.training.on_ray`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from stages.base.errors import StageError
from stages.base.in_parts import InParts
from stages.base.memory import out_of_memory
from stages.base.progress import report_progress
from stages.base.seeded import seeded
from stages.base.stage import GraphStage, sample_seed
from stages.segmenter.augmentation import Augmentation, augmented
from stages.segmenter.batch_norm import synchronise_batch_norm
from stages.segmenter.calibration import CalibrationSums
from stages.segmenter.examples import Example, ExampleSource, Reader, as_batch
from stages.segmenter.network import Segmenter, SegmenterNetwork, Target, new_segmenter, save_segmenter
from stages.segmenter.optimiser import Optimiser, new_optimiser, rate_at
from stages.segmenter.stream import Share
from stages.segmenter.survey import Survey, survey
from stages.segmenter.validation import Best, Epoch, judged
from stages.training.rates import set_rate
from stages.training.states import States, identity_of, packed, resumed
from stages.training.workers import Workers

Wrap = Callable[[nn.Module], nn.Module]

LEAST = 2  # images computed at once: batch norm needs two
_log = logging.getLogger(__name__)


class TrainSegmenter(GraphStage):
    """Fit one network to all error maps of the supervision subset; the result is one checkpoint."""

    name: ClassVar[str] = "train_segmenter"
    version: ClassVar[int] = 5
    reads: ClassVar[tuple[str, ...]] = ("error_maps",)
    indifferent: ClassVar[frozenset[str]] = frozenset({"cache_mb", "checkpoint_every_s", "minimum_share"})

    network: SegmenterNetwork = SegmenterNetwork()
    target: Target = "error"
    """Target of the l2 fit: the error (Eq. 3.2 as printed), or its square root, whose tail is lighter. Predicted roots
    are calibrated on held-out images, so that they mean errors and a threshold keeps its meaning."""
    epochs: PositiveInt = 100  # passes over the supervision
    batch: PositiveInt = 16  # images per step of all workers together; each worker needs at least 2
    micro_batch: int | None = Field(None, ge=LEAST)
    """Images that a worker computes at once; gradients of a batch add up, and batch norm sees this number. None: the
    batch, halved if memory is full and there is one worker."""
    optimiser: Optimiser = "adamw"  # sgd has momentum .9 and polynomial decay, as in the authors' code
    learning_rate: PositiveFloat = 2e-3  # largest learning rate; the authors use 1e-3 with sgd
    weight_decay: float = Field(1e-4, ge=0)  # weight decay of the optimiser
    validation_share: float = Field(0.1, ge=0, lt=1)  # share held out, by a hash of the key; stays as data grows
    augmentation: Augmentation = Augmentation()
    minimum_share: float = Field(1.0, gt=0, le=1)
    """Minimum share of the supervision: with less the run stops and says what is missing. A segmenter trained on a part
    is kept until this is raised above that part."""
    seed: NonNegativeInt = 0  # seed of initialisation, order and augmentation
    edition: PositiveInt = 1
    """Raise it to retrain on the present supervision. New data alone does not retrain, because all results after
    the segmenter would be made again."""
    shuffle_window: PositiveInt = 256
    """Minimum number of examples, of units in random order, that are mixed; memory holds two windows per worker."""
    cache_mb: NonNegativeInt = 64  # MB of decoded examples that a worker keeps; a small set is then read only once
    checkpoint_every_s: PositiveFloat = 60.0  # seconds between states to resume from: the most that a crash costs

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files that the result depends on, for the fingerprint."""
        return self.network.weight_files()

    def holds_out(self, key: str) -> bool:
        """Return whether the example of this key is held out for validation."""
        return sample_seed(self.seed, f"held out/{key}") / 2**56 < self.validation_share


@dataclass(frozen=True)
class Predicted:
    """An example, held out if any is, and the trained segmenter's prediction for it."""

    key: str
    image_HW3: NDArray[np.uint8]
    true_LHW: NDArray[np.float16]
    predicted_LHW: NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A trained segmenter, as the bytes of a checkpoint for `load_segmenter`, and the course of its training."""

    checkpoint: bytes
    curve: list[Epoch]
    rejected: Mapping[str, Mapping[str, str]]  # by unit and key: excluded examples, with the reason
    predicted: list[Predicted]  # a few, on the first worker


def train(
    stage: TrainSegmenter,
    source: ExampleSource,
    device: torch.device,
    *,
    states: States | None = None,
    workers: Workers = Workers(),  # noqa: B008  # immutable
    wrap: Wrap = lambda module: module,
) -> Trained:
    """Return the segmenter that predicts the examples' error maps best: l2 (thesis Eq. 3.2), or with the target
    `root` l2 of square roots, calibrated.

    Differs from the thesis: validation is held out, and the segmenter kept is the last epoch with a loss within one
    standard error of the smallest so far: held-out images cannot distinguish these epochs (Breiman et al. 1984,
    Sec. 3.4.3), and later ones are further in the schedule. With fewer than two held out, it is the last epoch of all.

    The result depends on the recipe, the examples and the number of workers, not on the cache or when training
    was interrupted. Memory does not grow with the number of examples; unfit ones are excluded and named.

    Args:
        stage: the recipe.
        source: the examples; each worker reads its share of the units once for the survey and once per pass.
        device: where to train.
        states: keeps the state that an interrupted training resumes from; it then ends as if never interrupted.
        workers: which worker this is, of how many.
        wrap: makes the network data-parallel.

    Raises:
        StageError: there are no sound examples, or the state belongs to another training.
        WeightsError: the backbone's weights do not fit.
    """
    with Reader(source, stage.cache_mb << 20) as reader:
        may_change: dict[str, Any] = dict.fromkeys(stage.indifferent, True)
        if stage.weight_files():  # their paths differ between machines; the fingerprint has their digest
            may_change["network"] = {"weights"}
        identity = identity_of(stage, may_change, source.spaces, source.size, list(source.units))
        with resumed(states, workers, identity, device, stage.name) as state:
            found = Survey(**state["survey"]) if state else survey(reader, stage.holds_out, stage.seed, workers)
            share = Share(reader, found, stage.holds_out, stage.shuffle_window, stage.seed, workers)
            training = _Training(stage, share, device, wrap, states=states, identity=identity)
            if state:
                training.restore(state)
            training.run()
        return training.result()


# ---- one training


class _Fitted(nn.Module):
    """The segmenter in training; data-parallel wrappers follow its forward."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image_N3HW: Tensor) -> Tensor:
        return self.segmenter.unbounded(image_N3HW)


class _Training:
    """The state of one training on one worker."""

    def __init__(
        self,
        stage: TrainSegmenter,
        share: Share,
        device: torch.device,
        wrap: Wrap,
        *,
        states: States | None,
        identity: str,
    ) -> None:
        self.stage, self.share, self.device, self.states, self.identity = stage, share, device, states, identity
        self.workers, self.survey = share.workers, share.survey
        self.mean_L, self.variance_L = self.survey.mean_and_variance(stage.target)
        network = stage.network.for_images(sum(self.survey.counts))
        segmenter = new_segmenter(network, share.reader.source.spaces, stage.seed, stage.target)
        segmenter.start_from(torch.tensor(self.mean_L))
        if self.workers.world > 1:
            synchronise_batch_norm(segmenter, device)
        self.segmenter = segmenter.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.evaluated = InParts(self.segmenter.unbounded, "the segmenter's forward pass")
        self.network, self.backbone = wrap(_Fitted(self.segmenter)), network.backbone
        self.optimiser = new_optimiser(
            stage.optimiser,
            self.segmenter,
            stage.learning_rate,
            stage.weight_decay,
            pretrained=network.weights is not None,
        )
        each = max(LEAST, stage.batch // self.workers.world)
        self.size = min(each, max(LEAST, share.largest))  # of a batch, the same on every worker
        self.parts = self._parts_of(stage.micro_batch or self.size)
        self.steps = -(-share.largest // self.size)  # an epoch, the same on every worker
        self.step = 0  # of the current epoch
        self.loss = torch.zeros((), dtype=torch.float64, device=device)  # summed over the steps of that epoch
        self.curve: list[Epoch] = []
        self.kept: dict[str, Tensor] = {}  # weights
        self.best = Best()

    def run(self) -> None:
        """Train from the current state to the end."""
        batches = self.share.batches(self.size, len(self.curve) * self.steps + self.step)
        while (epoch := len(self.curve)) < self.stage.epochs:
            loss = self.learn(epoch, batches)
            self.note(epoch, loss)

    def learn(self, epoch: int, batches: Iterator[Sequence[Example]]) -> float:
        """Train to the end of an epoch and return the mean loss over its steps and all workers."""
        self.network.train()
        for step in range(self.step, self.steps):
            seed = sample_seed(self.stage.seed, f"step/{epoch}/{step}/{self.workers.rank}")
            image, root = augmented(self.stage.augmentation, *as_batch(next(batches), self.device), seed)
            set_rate(
                self.optimiser,
                rate_at(self.stage.optimiser, epoch * self.steps + step, self.stage.epochs * self.steps),
            )
            self.loss += self.gradients(image * 2 - 1, self.segmenter.fitted_to(root), seed)
            self.optimiser.step()
            self.step = step + 1
            report_progress(
                epoch * self.steps + step + 1,
                self.stage.epochs * self.steps,
                "steps",
                f"epoch {epoch + 1} of {self.stage.epochs}, {self.backbone}",
            )
            self._keep_state()
        mean = float(self.workers.sum(self.loss)) / (self.steps * self.workers.world)
        self.step, self.loss = 0, torch.zeros_like(self.loss)
        if not math.isfinite(mean):
            raise StageError(
                f"train_segmenter diverged in epoch {epoch} (loss {mean}): lower learning_rate, now "
                f"{self.stage.learning_rate}"
            )
        return mean

    def gradients(self, image_N3HW: Tensor, fitted_NLHW: Tensor, seed: int) -> Tensor:
        """Make the gradients of a batch's loss, in smaller parts if memory is full, and return that loss."""
        while True:
            try:
                return self._gradients_in_parts(image_N3HW, fitted_NLHW, seed)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                full = str(error)
            self._halve(full)  # not earlier: the error keeps its allocations alive

    def _gradients_in_parts(self, image_N3HW: Tensor, fitted_NLHW: Tensor, seed: int) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        parts = zip(image_N3HW.tensor_split(self.parts), fitted_NLHW.tensor_split(self.parts), strict=True)
        for number, (image, fitted) in enumerate(parts):
            with seeded(sample_seed(seed, f"forward/{number}"), self.device):  # of dropout
                said = self.network(image.contiguous(memory_format=torch.channels_last))
            loss = F.mse_loss(said, fitted) * (len(image) / len(image_N3HW))
            loss.backward()
            total += loss.detach()
        return total

    def _parts_of(self, most: int) -> int:
        """Return the number of parts of a batch if `most` images are computed at once, at least two."""
        return max(1, min(-(-self.size // most), self.size // LEAST))

    def _halve(self, reason: str) -> None:
        """Compute batches in twice as many parts from now on."""
        before, parts = self.parts, min(2 * self.parts, max(1, self.size // LEAST))
        if self.workers.world > 1 or parts == before:
            raise StageError(
                f"memory is too small to train on {-(-self.size // before)} images at once: lower "
                f"train_segmenter.micro_batch (at least {LEAST}), or choose a smaller train_segmenter.network; {reason}"
            )
        self.parts = parts
        torch.cuda.empty_cache()  # does nothing without CUDA
        _log.warning(
            "no memory to train on %d images at once, continuing with %d (batch norm sees this number)",
            -(-self.size // before),
            -(-self.size // parts),
        )

    def note(self, epoch: int, train_loss: float) -> None:
        """Judge the segmenter on held-out images, add a point to the curve and keep its weights if they are good."""
        found = judged(self.segmenter, self.evaluated, self.share.once(self.size), self.mean_L, self.workers)
        kept = self.best.accepts(found.loss, found.deviation)
        point = Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=found.loss,
            val_deviation=found.deviation,
            mean_loss=float(np.mean(self.variance_L)) if found.mean_loss is None else found.mean_loss,
            correlation=found.correlation,
            kept=kept,
        )
        self.curve.append(point)
        if kept:
            self.kept = {key: tensor.detach().cpu().clone() for key, tensor in self.segmenter.state_dict().items()}

    def result(self) -> Trained:
        """Return the segmenter that was kept, calibrated if it predicts roots, and its predictions for examples."""
        self.segmenter.load_state_dict(self.kept)
        self.segmenter.eval()
        training, held_out = self.survey.counts
        about = f"trained on the error maps of {training} images, {held_out} held out; edition {self.stage.edition}"
        if self.stage.target == "root":
            self.segmenter.calibration = self._calibration_sums().fit().to(self.device)
            about += "; calibrated on those held out" if held_out else "; calibrated on what it was trained on"
            if not held_out and self.workers.rank == 0:
                _log.warning(
                    "no image is held out (train_segmenter.validation_share), so the segmenter is calibrated on those "
                    "it was trained on: its errors may be too low"
                )
        predicted = list(self._predicted()) if self.workers.rank == 0 else []
        return Trained(save_segmenter(self.segmenter, about), self.curve, self.survey.rejected, predicted)

    @torch.no_grad()
    def _calibration_sums(self) -> CalibrationSums:
        """Return the statistics of predicted roots, over held-out examples or, without any, the training's."""
        sums = CalibrationSums(len(self.segmenter.spaces), self.device)
        for examples in self.share.once(self.size, held_out=bool(self.survey.held_out)):
            image, root = as_batch(examples, self.device)
            sums.add(self.evaluated(image * 2 - 1).relu(), root.square())
        self.workers.sum(sums.total_3LK)
        return sums

    @torch.no_grad()
    def _predicted(self) -> Iterator[Predicted]:
        for example in self.share.pictured():
            image, _ = as_batch([example], self.device)
            predicted_LHW = self.segmenter(image * 2 - 1)[0].cpu().numpy()
            yield Predicted(example.key, example.image_HW3, example.error_LHW, predicted_LHW)

    def _keep_state(self) -> None:
        """Keep everything that training needs to continue, if it is time."""
        if self.states is None or not self.workers.first_says(self.states.due(), self.device):
            return
        state = {
            "identity": self.identity,
            "survey": asdict(self.survey),
            "curve": self.curve,
            "step": self.step,
            "parts": self.parts,
            "loss": float(self.workers.sum(self.loss.clone())),
            "best": asdict(self.best),
            "kept": self.kept,
            "network": self.segmenter.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.workers.rank == 0:
            self.states.keep(packed(state))

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.segmenter.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.curve, self.best = state["curve"], Best(**state["best"])
        self.kept = {key: tensor.cpu() for key, tensor in state["kept"].items()}
        self.step = min(state["step"], self.steps)  # fewer workers take at least as many steps per epoch
        self.parts = max(self.parts, min(state["parts"], max(1, self.size // LEAST)))
        if self.workers.rank == 0:
            self.loss += state["loss"]
