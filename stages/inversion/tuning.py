"""Tuning of a generator to one image around its pivot, with locality regularisation (Roich et al. 2021, Sec. 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from stages.inversion.starts.start import one_hot
from stages.inversion.viewer import Viewer
from stages.maps.region import crop
from stages.objective.objective import Objective, Target, prepare_target, reconstruction


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Locality(_Settings):
    """What keeps images of other codes as they were: one random code per step, moved to within `alpha` of the pivot."""

    alpha: PositiveFloat = 30.0  # distance from the pivot, over all rows of w_plus
    lambda_l2: NonNegativeFloat = 0.1  # weight of the mean squared error from the original generator's image
    lambda_lpips: NonNegativeFloat = 0.1  # weight of the perceptual distance from it
    truncation: PositiveFloat = 0.5  # of the random codes


class Tuning(_Settings):
    """How the generator is tuned; defaults as published."""

    steps: PositiveInt = 350  # most steps
    learning_rate: PositiveFloat = 3e-4  # of Adam
    lambda_l2: NonNegativeFloat = 1.0  # weight of the mean squared error
    lambda_lpips: NonNegativeFloat = 1.0  # weight of the perceptual distance
    stop_lpips: NonNegativeFloat = 0.06  # perceptual distance at which tuning ends
    locality: Locality | None = Locality()  # regularisation of images of other codes; null is off


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned generator; `loss` is that before the last step taken, not finite if tuning failed."""

    generator: Generator
    steps: int
    loss: float


@dataclass(frozen=True, eq=False)
class Noise:
    """The random codes of one image's tuning, which depend on nothing but seed and key."""

    random: torch.Generator
    label: int | None = None

    @classmethod
    def from_seed(cls, seed: int, label: int | None) -> Noise:
        """Return the codes of a seed, of a class if the generator has classes."""
        return cls(torch.Generator().manual_seed(seed), label)

    def w(self, generator: Generator, truncation: float) -> Tensor:
        """Return the next code, `[1, num_ws, w_dim]`."""
        like = next(generator.parameters())
        z = torch.randn(1, generator.z_dim, generator=self.random).to(like)
        label = None
        if generator.label_dim:
            drawn = int(torch.randint(generator.label_dim, (1,), generator=self.random))
            label = one_hot(drawn if self.label is None else self.label, generator)[None].to(like)
        return generator.map(z, label, truncation)


def tune(  # noqa: PLR0917 - the parts of Eq. 3 to 5
    viewer: Viewer, objective: Objective, settings: Tuning, codes: Codes, target: Target, noise: Noise
) -> Tuned:
    """Return a copy of the viewer's generator, tuned so that the codes of one image form its target.

    Args:
        viewer: generator, perceptual distance and region.
        objective: gives the size of the loss's images, and whether they are clamped.
        settings: of the tuning.
        codes: the pivot, a batch of 1.
        target: of the image.
        noise: draws the codes of the locality regularisation.

    Source: the equations of the paper, and its released hyperparameters.
    """
    plain = objective.model_copy(update={"lambda_lpips": 1.0})
    tuned, loss, taken = viewer.generator.thawed(), float("inf"), 0
    adam = torch.optim.Adam(list(tuned.tunable.values()), lr=settings.learning_rate)
    for taken in range(settings.steps + 1):  # its last value counts
        with torch.enable_grad():
            image = crop(tuned.synthesize(codes.w_plus, codes.deltas, codes.masks), viewer.region)
            total, lpips = _weighted(image, target, viewer, plain, settings.lambda_l2, settings.lambda_lpips)
            loss = float(total.detach())
            if taken == settings.steps or lpips <= settings.stop_lpips or not math.isfinite(loss):
                break
            if settings.locality is not None:
                total = total + _locality(viewer, tuned, plain, settings.locality, codes.w_plus, noise)
            adam.zero_grad()
            total.backward()
        adam.step()
    return Tuned(tuned.freeze(), taken, loss)


# Roich et al. 2021, Eq. 4 and 5: w_r = w_p + α (w_z − w_p) / ‖w_z − w_p‖
def near_pivot(pivot: Tensor, w_z: Tensor, alpha: float) -> Tensor:
    """Return the code on the way from a pivot to another code, at a distance over all rows, `[1, num_ws, w_dim]`."""
    way = w_z - pivot
    moved: Tensor = pivot + alpha * way / way.norm().clamp_min(1e-12)
    return moved


def _locality(  # noqa: PLR0917 - the terms of Eq. 5
    viewer: Viewer, tuned: Generator, objective: Objective, settings: Locality, pivot: Tensor, noise: Noise
) -> Tensor:
    with torch.no_grad():
        w_r = near_pivot(pivot, noise.w(viewer.generator, settings.truncation), settings.alpha)
        before = crop(viewer.generator.synthesize(w_r), viewer.region)
        target = prepare_target(before.clamp(-1, 1) if objective.clamp else before, viewer.perceptual, objective)
    after = crop(tuned.synthesize(w_r), viewer.region)
    return _weighted(after, target, viewer, objective, settings.lambda_l2, settings.lambda_lpips)[0]


def _weighted(  # noqa: PLR0917 - Eq. 3
    image: Tensor, target: Target, viewer: Viewer, objective: Objective, l2: float, lpips: float
) -> tuple[Tensor, float]:
    """Return the weighted loss of one image, and its perceptual distance."""
    mse_1, lpips_1 = reconstruction(image, target, viewer.perceptual, objective)
    assert lpips_1 is not None, "its weight is 1"
    return (l2 * mse_1 + lpips * lpips_1).sum(), float(lpips_1.detach())
