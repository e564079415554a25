"""A start without an encoder: a w learnt from random draws and their pictures."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior, draw_w
from stages.engine.schedule import Schedule
from stages.inversion.starts.start import Begin, StartSource, in_every_layer, one_hot
from stages.inversion.viewer import Photograph, Viewer
from stages.maps.region import Region, crop
from stages.objective.objective import Objective, Target, prepare_target

if TYPE_CHECKING:
    from stages.perceptual.distance import Features, Perceptual

GRID = 8  # cells a side that features are averaged over: fine enough to locate objects, small enough to keep
RIDGE = 1e-2  # of a kernel that is 1 at distance 0
ROUNDING = 1e-6  # relative, of squared distances in float32
BATCH = 16  # draws per batch

KEPT = 4  # learnt starts of classes that a process keeps

_kept: dict[tuple[object, ...], LearntStart] = {}  # the last ones of this process


class Learnt(StartSource):
    """Start at a w that is learnt from random draws and their pictures (`LearntStart`).

    If the class of an image is known, the draws are of its class. A class that returns after several others is
    learnt again, so shards are best sorted by class.
    """

    schedule: ClassVar[Schedule] = Schedule(steps=251)

    kind: Literal["learnt"] = "learnt"
    samples: PositiveInt = 1024  # draws of w

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return the setting by which this start was chosen before it had a name."""
        return {"start_samples": self.samples}

    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Learn the start or, if photographs have a class, return a start that learns that of a class when needed."""
        generator, perceptual = viewer.generator, viewer.perceptual
        learn = functools.partial(LearntStart.from_draws, generator, perceptual, objective, viewer.region, self.samples)
        learnt = None if labelled else learn()

        def begin(photograph: Photograph, target: Target, assignment_HW: NDArray[np.uint8]) -> Codes:
            start = learnt
            if start is None:
                assert photograph.label is not None, "all photographs have a class or none"
                start = learn(label=one_hot(photograph.label, generator))
            return Codes(in_every_layer(start.w_of(perceptual, target)[0], generator))

        return begin


class LearntStart:
    """Kernel ridge regression of w on the appearance of pictures: an encoder that is solved for, not trained.

    A picture is represented by features averaged over the cells of a grid; the squared distance of pictures is LPIPS
    between these: the mean over cells and the weights of the heads are those of the distance itself. The kernel is
    Gaussian, as wide as the mean squared distance of the draws, so that it has no scale to set. A picture unlike all
    draws starts near the mean.

    From the mean w, an optimiser loses objects that are far from their place in the mean picture, because no gradient
    leads there; a start with the object in its place needs none.
    """

    def __init__(self, w_BD: Tensor, seen_BV: Tensor) -> None:
        self._mean_w, self._mean_seen = w_BD.mean(dim=0), seen_BV.mean(dim=0)
        self._seen_BV = seen_BV - self._mean_seen
        spread = 2 * self._seen_BV.square().sum(dim=1).mean()
        rounding = ROUNDING * self._mean_seen.square().sum()  # apparent difference of identical pictures
        self._scale = (spread + rounding).clamp(min=torch.finfo(spread.dtype).tiny)
        kernel_BB = torch.cdist(self._seen_BV, self._seen_BV).square_().div_(-self._scale).exp_().double()
        kernel_BB.diagonal().add_(RIDGE)
        centred_BD = (w_BD - self._mean_w).double()
        self._weights_BD = torch.cholesky_solve(centred_BD, torch.linalg.cholesky(kernel_BB)).to(w_BD.dtype)

    @classmethod
    @torch.no_grad()
    def from_draws(
        cls,
        generator: Generator,
        perceptual: Perceptual,
        objective: Objective,
        region: Region,
        samples: int,
        *,
        label: Tensor | None = None,
    ) -> LearntStart:
        """Draw `samples` codes and compute their features, on the generator's device, where they stay.

        A draw takes up to 64 float32 numbers per channel of the distance: 33 KiB with the demo's, 368 KiB with
        LPIPS-VGG, three times as much until all are computed. B draws take 28 B² bytes while the regression is solved.
        The latest regression of a process is kept: error_maps and invert of a run share it. With `label [label_dim]`,
        all draws are of that class, and the last four classes are kept.
        """
        device = next(generator.parameters()).device
        one_hot = None if label is None else tuple(label.tolist())
        key = (
            generator.digest,
            generator.manner,
            perceptual.digest,
            objective.side_px,
            region,
            samples,
            one_hot,
            device,
        )
        if key in _kept:
            return _kept[key]
        w_BD = draw_w(generator, samples, label=label).float().to(device)
        seen = []
        for w_ND in w_BD.split(BATCH):
            w_plus = w_ND[:, None].expand(-1, generator.num_ws, -1)
            image = crop(generator.synthesize(w_plus, {}, {}), region).clamp(-1, 1)
            seen.append(_view(perceptual, prepare_target(image, perceptual, objective).features))
        found = cls(w_BD, torch.cat(seen))
        for oldest in list(_kept)[: len(_kept) if label is None else max(0, len(_kept) - KEPT + 1)]:
            del _kept[oldest]
        if generator.digest:  # a generator made in memory has none, and could be confused with another
            _kept[key] = found
        return found

    @torch.no_grad()
    def w_of(self, perceptual: Perceptual, target: Target) -> Tensor:
        """Return the start w of each target, `[N, w_dim]` float32."""
        return self.predict(_view(perceptual, target.features))

    def predict(self, seen_NV: Tensor) -> Tensor:
        """Return the w `[N, w_dim]` of pictures with these features."""
        square_NB = torch.cdist(seen_NV - self._mean_seen, self._seen_BV).square()
        return self._mean_w + torch.exp(-square_NB / self._scale) @ self._weights_BD


def _view(perceptual: Perceptual, features: Features) -> Tensor:
    """Return vectors `[N, V]` whose squared distance is LPIPS between averaged features."""
    parts = []
    for head, layer_NChw in zip(perceptual.heads, features.layers, strict=True):
        height, width = layer_NChw.shape[2:]
        cells = min(GRID, height), min(GRID, width)
        weight_1C11 = next(head.parameters()).clamp(min=0)
        seen = F.adaptive_avg_pool2d(layer_NChw, cells) * (weight_1C11 / (cells[0] * cells[1])).sqrt()
        parts.append(seen.flatten(1))
    return torch.cat(parts, dim=1)
