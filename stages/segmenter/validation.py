"""Judging a segmenter on held-out examples: the learning curve, and which epoch is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from stages.segmenter.examples import Example, as_batch
from stages.segmenter.network import Segmenter
from stages.training.workers import Workers


class Epoch(TypedDict):
    """One point of the learning curve. Losses are mean squares of differences to the heads' target."""

    epoch: int
    train_loss: float  # on augmented images
    val_loss: float | None  # on the held-out images; None without any
    val_deviation: float | None  # standard error of val_loss, as the mean over held-out images; None of fewer than two
    mean_loss: float  # of the trivial predictor, each space's mean; a segmenter must beat it
    correlation: dict[str, float | None]  # of predicted and true errors over held-out pixels, for each space
    kept: bool  # whether its weights replaced those kept before; the last such epoch is the segmenter


@dataclass
class Best:
    """The smallest validation loss so far, and its standard error."""

    least_loss: float = math.inf
    margin: float = 0.0

    def accepts(self, loss: float | None, deviation: float | None) -> bool:
        """Return whether a loss is within one standard error of the smallest so far, which it may become."""
        if loss is None or deviation is None:
            return True
        if loss < self.least_loss:
            self.least_loss, self.margin = loss, deviation
        return loss <= self.least_loss + self.margin


@dataclass(frozen=True)
class Judged:
    """Figures of a segmenter on held-out examples. None where there are too few."""

    loss: float | None
    deviation: float | None
    mean_loss: float | None  # of predicting each space's mean
    correlation: dict[str, float | None]


@torch.no_grad()
def judged(
    segmenter: Segmenter,
    unbounded: Callable[[Tensor], Tensor],
    batches: Iterable[Sequence[Example]],
    mean_L: Sequence[float],
    workers: Workers,
) -> Judged:
    """Return the figures of the held-out examples of all workers.

    Args:
        segmenter: the one to judge.
        unbounded: its method of that name, in parts if memory is short.
        batches: the held-out examples of this worker.
        mean_L: output of the trivial predictor.
        workers: all workers, which judge together.
    """
    device = next(segmenter.parameters()).device
    total_L8 = torch.zeros(len(segmenter.spaces), 8, dtype=torch.float64, device=device)
    images_3 = torch.zeros(3, dtype=torch.float64, device=device)
    mean_L11 = torch.tensor(mean_L, device=device)[:, None, None]
    segmenter.eval()
    for examples in batches:
        image, root = as_batch(examples, device)
        guess = unbounded(image * 2 - 1).relu()
        of_pixels, of_images = _sums(segmenter, guess.double(), root.double(), mean_L11)
        total_L8 += of_pixels
        images_3 += of_images
    total_L8, images_3 = workers.sum(total_L8).cpu(), workers.sum(images_3).cpu()
    count, loss, mean_loss = (float(x) for x in total_L8[:, :3].sum(dim=0))
    if not count:
        return Judged(None, None, None, dict.fromkeys(segmenter.spaces))
    correlation = {s: _correlation(sums) for s, sums in zip(segmenter.spaces, total_L8.tolist(), strict=True)}
    return Judged(loss / count, _standard_error(images_3.tolist()), mean_loss / count, correlation)


def _sums(segmenter: Segmenter, guess_NLHW: Tensor, root_NLHW: Tensor, mean_L11: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums over pixels, `[L, 8]`, and over images, `[3]`.

    Those over pixels are, with g the heads' output and f its target, p the predicted and t the true
    error: 1, (g - f)², (mean f - f)², p, t, p², t², pt. Those over images are, with d an image's mean of (g - f)²: 1,
    d, d².
    """
    fitted = segmenter.fitted_to(root_NLHW)
    p, t, square = segmenter.uncalibrated(guess_NLHW), root_NLHW.square(), (guess_NLHW - fitted) ** 2
    parts = (torch.ones_like(t), square, (mean_L11 - fitted) ** 2, p, t, p * p, t * t, p * t)
    d = square.mean(dim=(1, 2, 3))
    of_pixels_L8 = torch.stack([part.sum(dim=(0, 2, 3)) for part in parts], dim=1)
    return of_pixels_L8, torch.stack([torch.ones_like(d), d, d * d]).sum(dim=1)


def _standard_error(sums: Sequence[float]) -> float | None:
    """Return the standard error of a mean from the sums of 1, d and d²; None of fewer than two numbers."""
    n, d, dd = sums
    return math.sqrt(max(0.0, dd - d * d / n) / (n - 1) / n) if n > 1 else None


def _correlation(sums: Sequence[float]) -> float | None:
    """Return Pearson's correlation of predicted and true errors; None if either is constant."""
    n, _, _, p, t, pp, tt, pt = sums
    spread = (n * pp - p * p) * (n * tt - t * t)
    return (n * pt - p * t) / math.sqrt(spread) if spread > 0 else None
