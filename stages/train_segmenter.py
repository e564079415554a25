"""Trains the segmenter on stored error maps: the l2 fit of Eq. 3.2, as one function of torch alone (thesis 3.1).

The same function runs in one process and, data-parallel, in several: `pipeline.training` says how.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from stages.augmentation import Augmentation, augmented
from stages.errors import StageError
from stages.examples import Example, ExampleSource, Reader, as_batch
from stages.segmenter import Segmenter, SegmenterNetwork, new_segmenter, save_segmenter
from stages.stage import sample_seed
from stages.stream import Share
from stages.survey import Survey, survey
from stages.workers import Workers

Wrap = Callable[[nn.Module], nn.Module]

WARM_UP = 0.1  # share of the steps in which AdamW's rate rises
PRETRAINED_RATE = 0.1  # a pretrained backbone learns ten times slower than what is new (authors' code)
FOREIGN = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError)  # what a wrong state raises


class TrainSegmenter(BaseModel):
    """Fit one network to the error maps of the supervision subset; it makes one checkpoint from the whole of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = "train_segmenter"
    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ("error_maps",)
    indifferent: ClassVar[frozenset[str]] = frozenset({"cache_mb", "checkpoint_every_s"})
    """Fields that cannot change the result and so stay out of the fingerprint."""

    network: SegmenterNetwork = SegmenterNetwork()
    epochs: PositiveInt = 100
    batch: PositiveInt = 16  # of all workers together; each takes at least 2, which batch norm needs
    optimiser: Literal["adamw", "sgd"] = "adamw"  # sgd: momentum .9 and polynomial decay, as the authors' code
    learning_rate: PositiveFloat = 2e-3  # the largest; with sgd the authors have 1e-3
    weight_decay: float = Field(1e-4, ge=0)
    validation_share: float = Field(0.1, ge=0, lt=1)  # held out by a hash of the key, so that it stays as data grow
    augmentation: Augmentation = Augmentation()
    seed: NonNegativeInt = 0
    edition: PositiveInt = 1
    """Raise it to retrain on the supervision there is now. New data alone does not retrain, because everything
    behind the segmenter would be redone."""
    shuffle_window: PositiveInt = 256
    """Least examples, of units in random order, that are mixed with each other; memory holds two windows a worker."""
    cache_mb: NonNegativeInt = 64  # of decoded examples that a worker keeps, so that a small set is read once only
    checkpoint_every_s: PositiveFloat = 60.0  # between states to resume from: what a crash costs at most

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files that the result depends on, for the fingerprint."""
        return self.network.weight_files()

    def holds_out(self, key: str) -> bool:
        """Return whether the example of this key is held out for validation."""
        return sample_seed(self.seed, f"held out/{key}") / 2**56 < self.validation_share


class Epoch(TypedDict):
    """One point of the learning curve. Losses are mean squares of the difference between square roots of errors."""

    epoch: int
    train_loss: float  # on augmented images
    val_loss: float | None  # on the held-out images; None without any
    val_deviation: float | None  # standard error of val_loss, as the mean over held-out images; None of fewer than two
    mean_loss: float  # of the trivial predictor, each space's mean: what a segmenter must beat
    correlation: dict[str, float | None]  # of predicted and true errors over held-out pixels, for each space
    kept: bool  # whether its weights took the place of those kept before; the last such epoch is the segmenter


@dataclass(frozen=True)
class Predicted:
    """An example, held out where any is, and what the trained segmenter predicts for it."""

    key: str
    image_HW3: NDArray[np.uint8]
    true_LHW: NDArray[np.float16]
    predicted_LHW: NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A trained segmenter, as the bytes of a checkpoint for `load_segmenter`, and how it went."""

    checkpoint: bytes
    curve: list[Epoch]
    rejected: Mapping[str, Mapping[str, str]]  # by unit and key: what was not learnt from, with the reason
    predicted: list[Predicted]  # a few, on the first worker


class States(Protocol):
    """Keeps the latest state of a training under way. The first worker's is used, and asked after every step."""

    def load(self) -> bytes | None:
        """Return the state that was kept last, None if there is none."""

    def due(self) -> bool:
        """Return whether a state should be kept now."""

    def keep(self, state: bytes) -> None:
        """Keep a state in place of the last one."""

    def close(self) -> None:
        """Return when the last state is kept."""


def train(
    stage: TrainSegmenter,
    source: ExampleSource,
    device: torch.device,
    *,
    states: States | None = None,
    workers: Workers = Workers(),  # noqa: B008  # immutable
    wrap: Wrap = lambda module: module,
) -> Trained:
    """Return the segmenter that predicts the examples' error maps best: l2, on square roots (thesis Eq. 3.2).

    Differs from the thesis: the loss compares square roots of errors, whose tail is lighter, so predictions lean
    towards the median and lie below the mean error where a region's error is uncertain; validation is held out, and
    the last epoch is kept whose loss there is within one standard error of the least so far: so good that the images
    that were held out do not tell them apart (Breiman et al. 1984, Sec. 3.4.3), and later in the schedule. Where fewer
    than two are held out, that is the last epoch of all.

    The result depends on the recipe, the examples and the number of workers, not on what was cached or when training
    was interrupted. Memory does not grow with the number of examples; unfit ones are left out and named.

    Args:
        stage: the recipe.
        source: the examples; each worker reads its share of the units, once to look at them and once a pass.
        device: where to train.
        states: keeps what a training goes on from if it was stopped; it then ends as if it had never stopped.
        workers: which worker this is, of how many.
        wrap: makes the network data-parallel.

    Raises:
        StageError: there are no sound examples, or the state belongs to another training.
        WeightsError: the backbone's weights do not fit.
    """
    with Reader(source, stage.cache_mb << 20) as reader:
        kept = workers.of_first(states.load() if states is not None and workers.rank == 0 else None)
        state = None if kept is None else _opened(kept, _identity(stage, source), device)
        found = Survey(**state["survey"]) if state else survey(reader, stage.holds_out, stage.seed, workers)
        share = Share(reader, found, stage.holds_out, stage.shuffle_window, stage.seed, workers)
        training = _Training(stage, share, device, wrap, states)
        if state:
            training.restore(state)
        try:
            training.run()
        finally:
            if states is not None:
                states.close()
        return training.result()


def rate_at(optimiser: Literal["adamw", "sgd"], step: int, steps: int) -> float:
    """Return the share of the largest learning rate that step `step` of `steps` uses, in (0, 1].

    sgd: (1 - t)^0.9, the authors' polynomial decay. adamw: linear warm-up, then half a cosine.
    """
    if optimiser == "sgd":
        return float((1 - step / steps) ** 0.9)
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 0.5) / max(1, steps - warm)))


# ---- one training


class _Roots(nn.Module):
    """The segmenter as training sees it; its forward is what data-parallel wrappers follow."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image_N3HW: Tensor) -> Tensor:
        return self.segmenter.unbounded_roots(image_N3HW)


class _Training:
    """The state of one training on one worker."""

    def __init__(
        self, stage: TrainSegmenter, share: Share, device: torch.device, wrap: Wrap, states: States | None
    ) -> None:
        self.stage, self.share, self.device, self.states = stage, share, device, states
        self.workers, self.survey = share.workers, share.survey
        segmenter = new_segmenter(stage.network, share.reader.source.spaces, stage.seed)
        segmenter.start_from(torch.tensor(self.survey.root_L))
        self.segmenter = segmenter.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = wrap(_Roots(self.segmenter))
        self.optimiser = _optimiser(stage, self.segmenter)
        each = max(2, stage.batch // self.workers.world)
        self.size = min(each, max(2, share.count))
        self.steps = -(-share.largest // min(each, max(2, share.largest)))  # an epoch, the same on every worker
        self.step = 0  # of the epoch under way
        self.loss = torch.zeros((), dtype=torch.float64, device=device)  # summed over the steps of that epoch
        self.curve: list[Epoch] = []
        self.kept: dict[str, Tensor] = {}  # weights
        self.least_loss, self.margin = math.inf, 0.0  # of validation, and its standard error

    def run(self) -> None:
        """Train from where the state is to the end."""
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
            rate = rate_at(self.stage.optimiser, epoch * self.steps + step, self.stage.epochs * self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = group["largest_lr"] * rate
            loss = F.mse_loss(self.network((image * 2 - 1).contiguous(memory_format=torch.channels_last)), root)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.loss += loss.detach()
            self.step = step + 1
            self._keep_state()
        mean = float(self.workers.sum(self.loss)) / (self.steps * self.workers.world)
        self.step, self.loss = 0, torch.zeros_like(self.loss)
        if not math.isfinite(mean):
            raise StageError(
                f"train_segmenter diverged in epoch {epoch} (loss {mean}): lower learning_rate, now "
                f"{self.stage.learning_rate}"
            )
        return mean

    def note(self, epoch: int, train_loss: float) -> None:
        """Measure the segmenter on what is held out, add a point to the curve and keep its weights if they are good."""
        spaces, held_out = self.segmenter.spaces, bool(self.survey.held_out)
        total_L8, images_3 = self._sums(self.share.held_out_batches(self.size))
        count, loss, mean_loss = (float(x) for x in total_L8[:, :3].sum(dim=0))
        names_and_sums = zip(spaces, total_L8.tolist(), strict=True)
        val_loss, val_deviation = (loss / count, _standard_error(images_3.tolist())) if held_out else (None, None)
        kept = self._is_good(val_loss, val_deviation)
        point = Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_deviation=val_deviation,
            mean_loss=mean_loss / count if held_out else float(np.mean(self.survey.variance_L)),
            correlation={space: _correlation(sums) if held_out else None for space, sums in names_and_sums},
            kept=kept,
        )
        self.curve.append(point)
        if kept:
            self.kept = {key: tensor.detach().cpu().clone() for key, tensor in self.segmenter.state_dict().items()}

    def _is_good(self, loss: float | None, deviation: float | None) -> bool:
        """Return whether a loss is within one standard error of the least so far, which it may become."""
        if loss is None or deviation is None:
            return True
        if loss < self.least_loss:
            self.least_loss, self.margin = loss, deviation
        return loss <= self.least_loss + self.margin

    @torch.no_grad()
    def _sums(self, batches: Iterable[Sequence[Example]]) -> tuple[Tensor, Tensor]:
        """Return sums over pixels of all workers, `[L, 8]`, and over images, `[3]`, both float64.

        Those over pixels are, with p the predicted and t the true error: 1, (√p - √t)², (mean √t - √t)², p, t, p², t²,
        pt. Those over images are, with d an image's mean of (√p - √t)²: 1, d, d².
        """
        self.segmenter.eval()
        mean_L11 = torch.tensor(self.survey.root_L, device=self.device)[:, None, None]
        total_L8 = torch.zeros(len(self.segmenter.spaces), 8, dtype=torch.float64, device=self.device)
        images_3 = torch.zeros(3, dtype=torch.float64, device=self.device)
        for examples in batches:
            image, root = as_batch(examples, self.device)
            guess, root = self.segmenter.unbounded_roots(image * 2 - 1).relu().double(), root.double()
            p, t, square = guess.square(), root.square(), (guess - root) ** 2
            parts = (torch.ones_like(t), square, (mean_L11 - root) ** 2, p, t, p * p, t * t, p * t)
            total_L8 += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts], dim=1)
            d = square.mean(dim=(1, 2, 3))
            images_3 += torch.stack([torch.ones_like(d), d, d * d]).sum(dim=1)
        return self.workers.sum(total_L8).cpu(), self.workers.sum(images_3).cpu()

    def result(self) -> Trained:
        """Return the segmenter that was kept, and what it makes of some examples."""
        self.segmenter.load_state_dict(self.kept)
        training, held_out = self.survey.counts
        about = f"trained on the error maps of {training} images, {held_out} held out; edition {self.stage.edition}"
        predicted = list(self._predicted()) if self.workers.rank == 0 else []
        return Trained(save_segmenter(self.segmenter, about), self.curve, self.survey.rejected, predicted)

    @torch.no_grad()
    def _predicted(self) -> Iterator[Predicted]:
        self.segmenter.eval()
        for example in self.share.pictured():
            image, _ = as_batch([example], self.device)
            predicted_LHW = self.segmenter(image * 2 - 1)[0].cpu().numpy()
            yield Predicted(example.key, example.image_HW3, example.error_LHW, predicted_LHW)

    def _keep_state(self) -> None:
        """Keep all that training needs to go on, if it is time."""
        if self.states is None or not self.workers.first_says(self.states.due(), self.device):
            return
        state = {
            "identity": _identity(self.stage, self.share.reader.source),
            "survey": asdict(self.survey),
            "curve": self.curve,
            "step": self.step,
            "loss": float(self.workers.sum(self.loss.clone())),
            "least_loss": self.least_loss,
            "margin": self.margin,
            "kept": self.kept,
            "network": self.segmenter.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.workers.rank == 0:
            file = io.BytesIO()
            torch.save(state, file)
            self.states.keep(file.getvalue())

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.segmenter.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.curve, self.least_loss, self.margin = state["curve"], state["least_loss"], state["margin"]
        self.kept = {key: tensor.cpu() for key, tensor in state["kept"].items()}
        self.step = min(state["step"], self.steps)  # fewer workers take more steps an epoch, or as many
        if self.workers.rank == 0:
            self.loss += state["loss"]


def _opened(data: bytes, identity: str, device: torch.device) -> dict[str, Any]:
    """Return a state that was kept; raises StageError if it is damaged or of another training."""
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if state["identity"] != identity:
            raise ValueError("it belongs to other settings, spaces or examples")
    except FOREIGN as error:
        raise StageError(
            f"the state to resume train_segmenter from cannot be used ({error}): delete it, and training starts anew"
        ) from error
    return state


def _identity(stage: TrainSegmenter, source: ExampleSource) -> str:
    """Return a digest of what may not change between a state and its resumption."""
    settings = stage.model_dump_json(exclude=set(stage.indifferent))
    return hashlib.sha256(repr((settings, source.spaces, source.size, list(source.units))).encode()).hexdigest()


def _optimiser(stage: TrainSegmenter, segmenter: Segmenter) -> torch.optim.Optimizer:
    pretrained = stage.network.weights is not None
    slow = [p for name, p in segmenter.named_parameters() if pretrained and name.startswith("backbone.backbone.")]
    fast = [p for name, p in segmenter.named_parameters() if not (pretrained and name.startswith("backbone.backbone."))]
    rates = ((slow, PRETRAINED_RATE * stage.learning_rate), (fast, stage.learning_rate))
    groups = [{"params": params, "lr": rate, "largest_lr": rate} for params, rate in rates if params]
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=stage.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=stage.weight_decay)


def _standard_error(sums: Sequence[float]) -> float | None:
    """Return the standard error of a mean from the sums of 1, d and d²; None of fewer than two numbers."""
    n, d, dd = sums
    return math.sqrt(max(0.0, dd - d * d / n) / (n - 1) / n) if n > 1 else None


def _correlation(sums: Sequence[float]) -> float | None:
    """Return Pearson's correlation of predicted and true errors; None where either is constant."""
    n, _, _, p, t, pp, tt, pt = sums
    spread = (n * pp - p * p) * (n * tt - t * t)
    return (n * pt - p * t) / math.sqrt(spread) if spread > 0 else None
