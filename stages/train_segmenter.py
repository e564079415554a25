"""Trains the segmenter on stored error maps: the l2 fit of Eq. 3.2, as one function of torch alone (thesis 3.1).

The same function runs in one process and, data-parallel, in several: `pipeline.training` says how.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from stages.augmentation import Augmentation, augmented
from stages.errors import StageError
from stages.segmenter import Segmenter, SegmenterNetwork, new_segmenter, save_segmenter
from stages.stage import sample_seed

Wrap = Callable[[nn.Module], nn.Module]

WARM_UP = 0.1  # share of the steps in which AdamW's rate rises
PRETRAINED_RATE = 0.1  # a pretrained backbone learns ten times slower than what is new (authors' code)
FOREIGN = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError)  # what a wrong state raises


class TrainSegmenter(BaseModel):
    """Fit one network to the error maps of the supervision subset; it makes one checkpoint from the whole of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = "train_segmenter"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("error_maps",)
    indifferent: ClassVar[frozenset[str]] = frozenset({"report_every"})
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
    report_every: PositiveInt = 1  # epochs between states that training can resume from

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files that the result depends on, for the fingerprint."""
        return self.network.weight_files()


@dataclass(frozen=True)
class Example:
    """One image of the supervision subset and its error maps."""

    key: str
    image_HW3: NDArray[np.uint8]
    error_LHW: NDArray[np.float16]


class Epoch(TypedDict):
    """One point of the learning curve. Losses are mean squares of the difference between square roots of errors."""

    epoch: int
    train_loss: float  # on augmented images
    val_loss: float | None  # on the held-out images; None without any
    mean_loss: float  # of the trivial predictor, each space's mean: what a segmenter must beat
    correlation: dict[str, float | None]  # of predicted and true errors over held-out pixels, for each space


@dataclass(frozen=True)
class Trained:
    """A trained segmenter, as the bytes of a checkpoint for `load_segmenter`, and its learning curve."""

    checkpoint: bytes
    curve: list[Epoch]


def train(
    stage: TrainSegmenter,
    examples: Sequence[Example],
    device: torch.device,
    *,
    spaces: Sequence[str],
    report: Callable[[bytes], None] | None = None,
    resume: bytes | None = None,
    rank: int = 0,
    world: int = 1,
    wrap: Wrap = lambda module: module,
) -> Trained:
    """Return the segmenter that predicts `examples`' error maps best: l2, on square roots (thesis Eq. 3.2).

    Differs from the thesis: the loss compares square roots of errors, whose tail is lighter, so predictions lean
    towards the median and lie below the mean error where a region's error is uncertain; validation is held out; the
    best epoch by validation is kept (the last, where nothing is held out).

    Args:
        stage: the recipe.
        examples: all of them, of one image size; worker `rank` reads those at `rank`, `rank + world`, and so on, once
            to check them and once an epoch, so a sequence may load them when asked.
        device: where to train.
        spaces: names of the maps' L spaces, most editable first.
        report: is given a state to resume from every `report_every` epochs, on every worker at the same time; workers
            other than the first are given no bytes.
        resume: a reported state; training goes on behind it and ends as if it had never stopped.
        rank: which worker this is, of `world`; several need `torch.distributed` to be set up.
        world: how many workers there are.
        wrap: makes the network data-parallel.

    Raises:
        StageError: there are no examples, an example does not fit, or the state belongs to another training.
        WeightsError: the backbone's weights do not fit.
    """
    share = _share_of(stage, examples, spaces, device, rank=rank, world=world)
    training = _Training(stage, share, device, wrap)
    if resume is not None:
        training.restore(resume)
    for epoch in range(len(training.curve), stage.epochs):
        loss = training.learn(epoch)
        training.note(epoch, loss)
        if report is not None and (epoch + 1) % stage.report_every == 0:
            report(training.state() if rank == 0 else b"")
    return Trained(training.checkpoint(), training.curve)


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


# ---- examples


@dataclass(frozen=True)
class _Share:
    """What one worker trains and validates on, and what all workers know of the whole."""

    examples: Sequence[Example]
    spaces: tuple[str, ...]
    training: list[int]
    held_out: list[int]
    rank: int
    world: int
    training_of_all: int
    held_out_of_all: int
    root_L: Tensor

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images `[N, 3, H, W]` in [0, 1] and square roots of errors `[N, L, H, W]`, float32."""
        found = [self.examples[i] for i in indices]
        image_NHW3 = torch.from_numpy(np.stack([example.image_HW3 for example in found])).to(device)
        error_NLHW = torch.from_numpy(np.stack([example.error_LHW for example in found])).to(device)
        return image_NHW3.permute(0, 3, 1, 2).float() / 255, error_NLHW.float().sqrt()


def _share_of(
    stage: TrainSegmenter,
    examples: Sequence[Example],
    spaces: Sequence[str],
    device: torch.device,
    *,
    rank: int,
    world: int,
) -> _Share:
    """Return what worker `rank` works on, after one look at each of its examples."""
    if len(examples) < world:
        raise StageError(
            f"train_segmenter wanted the error maps of {world} or more images, one for each worker, and the "
            f"supervision for {', '.join(spaces)} holds {len(examples)}: enlarge the supervision subset of error_maps, "
            "or look into its quarantine"
        )
    roots: dict[int, NDArray[np.float64]] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    size = examples[0].image_HW3.shape[:2]
    for index in range(rank, len(examples), world):
        example = examples[index]
        _check(example, spaces, size)
        roots[index] = np.sqrt(example.error_LHW.astype(np.float64)).mean(axis=(1, 2))
        parts[_is_held_out(stage, example.key)].append(index)
    training, held_out = parts if parts[0] else (parts[1], [])  # too few to hold any out
    sums = [*np.sum([roots[index] for index in training], axis=0), len(training), len(held_out)]
    *root_L, trained, held = _over_workers(torch.tensor(sums, dtype=torch.float64, device=device), world).cpu()
    root = torch.stack(root_L) / trained
    return _Share(examples, tuple(spaces), training, held_out, rank, world, int(trained), int(held), root)


def _is_held_out(stage: TrainSegmenter, key: str) -> bool:
    return sample_seed(stage.seed, f"held out/{key}") / 2**56 < stage.validation_share


def _check(example: Example, spaces: Sequence[str], size: tuple[int, ...]) -> None:
    image, error = example.image_HW3, example.error_LHW
    if image.shape != (*size, 3) or error.shape != (len(spaces), *size) or image.dtype != np.uint8:
        raise StageError(
            f"{example.key}: wanted an image {[*size, 3]} of uint8 and maps {[len(spaces), *size]} for "
            f"{', '.join(spaces)}, got {list(image.shape)} of {image.dtype} and {list(error.shape)}: make the error "
            "maps of one size and of these spaces"
        )
    if not (np.isfinite(error).all() and (error >= 0).all()):
        raise StageError(f"{example.key}: its error maps hold negative or unbounded numbers; run error_maps again")


def _over_workers(tensor: Tensor, world: int, *, largest: bool = False) -> Tensor:
    """Return the sum (or the largest) of a tensor over all workers."""
    if world > 1:
        operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
        torch.distributed.all_reduce(tensor, op=operation)
    return tensor


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

    def __init__(self, stage: TrainSegmenter, share: _Share, device: torch.device, wrap: Wrap) -> None:
        self.stage, self.share, self.device = stage, share, device
        segmenter = new_segmenter(stage.network, share.spaces, stage.seed)
        segmenter.start_from(share.root_L.float())
        self.segmenter = segmenter.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = wrap(_Roots(self.segmenter))
        self.optimiser = _optimiser(stage, self.segmenter)
        self.size = min(max(2, stage.batch // share.world), max(2, len(share.training)))
        steps = torch.tensor([-(-len(share.training) // self.size)], device=device)
        self.steps = int(_over_workers(steps, share.world, largest=True))  # an epoch, the same on every worker
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_loss = math.inf

    def learn(self, epoch: int) -> float:
        """Train for one epoch and return the mean loss over its steps and all workers."""
        self.network.train()
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        for step, indices in enumerate(self._batches(epoch)):
            seed = sample_seed(self.stage.seed, f"step/{epoch}/{step}/{self.share.rank}")
            image, root = augmented(self.stage.augmentation, *self.share.batch(indices, self.device), seed)
            rate = rate_at(self.stage.optimiser, epoch * self.steps + step, self.stage.epochs * self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = group["largest_lr"] * rate
            loss = F.mse_loss(self.network((image * 2 - 1).contiguous(memory_format=torch.channels_last)), root)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            total += loss.detach()
        mean = float(_over_workers(total, self.share.world)) / (self.steps * self.share.world)
        if not math.isfinite(mean):
            raise StageError(
                f"train_segmenter diverged in epoch {epoch} (loss {mean}): lower learning_rate, now "
                f"{self.stage.learning_rate}"
            )
        return mean

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Yield batches of one size in a new order, which starts again where another worker needs more steps."""
        generator = torch.Generator().manual_seed(sample_seed(self.stage.seed, f"order/{epoch}/{self.share.rank}"))
        order = torch.randperm(len(self.share.training), generator=generator).tolist()
        for start in range(0, self.steps * self.size, self.size):
            yield [self.share.training[order[i % len(order)]] for i in range(start, start + self.size)]

    def note(self, epoch: int, train_loss: float) -> None:
        """Measure the segmenter on what is held out, add a point to the curve and keep the best weights."""
        held_out = self.share.held_out_of_all > 0
        total_L8 = self._sums(self.share.held_out if held_out else self.share.training)
        count, loss, mean_loss = (float(x) for x in total_L8[:, :3].sum(dim=0))
        names_and_sums = zip(self.share.spaces, total_L8.tolist(), strict=True)
        point = Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=loss / count if held_out else None,
            mean_loss=mean_loss / count,
            correlation={space: _correlation(sums) if held_out else None for space, sums in names_and_sums},
        )
        self.curve.append(point)
        if point["val_loss"] is None or point["val_loss"] < self.best_loss:
            self.best_loss = math.inf if point["val_loss"] is None else point["val_loss"]
            self.best = {key: tensor.detach().cpu().clone() for key, tensor in self.segmenter.state_dict().items()}

    @torch.no_grad()
    def _sums(self, indices: Sequence[int]) -> Tensor:
        """Return sums over pixels of all workers, `[L, 8]` float64.

        They are, with p the predicted and t the true error: 1, (√p - √t)², (mean √t - √t)², p, t, p², t², pt.
        """
        self.segmenter.eval()
        mean_L11 = self.share.root_L.to(self.device)[:, None, None]
        total_L8 = torch.zeros(len(self.share.spaces), 8, dtype=torch.float64, device=self.device)
        for start in range(0, len(indices), self.size):
            image, root = self.share.batch(indices[start : start + self.size], self.device)
            guess, root = self.segmenter.unbounded_roots(image * 2 - 1).relu().double(), root.double()
            p, t = guess.square(), root.square()
            parts = (torch.ones_like(t), (guess - root) ** 2, (mean_L11 - root) ** 2, p, t, p * p, t * t, p * t)
            total_L8 += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts], dim=1)
        return _over_workers(total_L8, self.share.world).cpu()

    def checkpoint(self) -> bytes:
        """Return the best segmenter as a checkpoint."""
        segmenter = Segmenter(self.stage.network, self.share.spaces)
        segmenter.load_state_dict(self.best)
        count = f"{self.share.training_of_all} images, {self.share.held_out_of_all} held out"
        return save_segmenter(segmenter, f"trained on the error maps of {count}; edition {self.stage.edition}")

    def state(self) -> bytes:
        """Return all that training needs to go on."""
        state = {
            "training": self._identity(),
            "curve": self.curve,
            "best_loss": self.best_loss,
            "best": self.best,
            "network": self.segmenter.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def restore(self, data: bytes) -> None:
        """Go on from a state; raises StageError if it is damaged or of another training."""
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=self.device, weights_only=True)
            if state["training"] != self._identity():
                raise ValueError("it belongs to other settings, spaces or examples")
            self.segmenter.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
        except FOREIGN as error:
            raise StageError(
                f"the state to resume train_segmenter from cannot be used ({error}): start without it, or under "
                "another name"
            ) from error
        self.curve, self.best_loss = state["curve"], state["best_loss"]
        self.best = {key: tensor.cpu() for key, tensor in state["best"].items()}

    def _identity(self) -> str:
        """Return a digest of what may not change between a state and its resumption."""
        settings = self.stage.model_dump_json(exclude=set(self.stage.indifferent))
        parts = (settings, self.share.spaces, self.share.training_of_all, self.share.held_out_of_all)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _optimiser(stage: TrainSegmenter, segmenter: Segmenter) -> torch.optim.Optimizer:
    pretrained = stage.network.weights is not None
    slow = [p for name, p in segmenter.named_parameters() if pretrained and name.startswith("backbone.backbone.")]
    fast = [p for name, p in segmenter.named_parameters() if not (pretrained and name.startswith("backbone.backbone."))]
    rates = ((slow, PRETRAINED_RATE * stage.learning_rate), (fast, stage.learning_rate))
    groups = [{"params": params, "lr": rate, "largest_lr": rate} for params, rate in rates if params]
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=stage.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=stage.weight_decay)


def _correlation(sums: Sequence[float]) -> float | None:
    """Return Pearson's correlation of predicted and true errors; None where either is constant."""
    n, _, _, p, t, pp, tt, pt = sums
    spread = (n * pp - p * p) * (n * tt - t * t)
    return (n * pt - p * t) / math.sqrt(spread) if spread > 0 else None
