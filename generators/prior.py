"""The Gaussian prior on w: statistics of w made Gaussian (thesis Eq. 3.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.generator import Generator

SLOPE = 5.0
RIDGE = 1e-8  # added to the covariance, as the published statistics have it


@dataclass(frozen=True, eq=False)
class Prior:
    """What ŵ looks like: ``mean [w_dim]`` and ``precision [w_dim, w_dim]`` (inverse covariance), and the mean w.

    All are float64, because the covariance of a generator has a condition number of 1e8 and more. ``mean_w [w_dim]``
    is no part of Eq. 3.6: it is where an inversion without an encoder starts.
    """

    mean: Tensor
    precision: Tensor
    mean_w: Tensor

    def to(self, device: torch.device | str) -> Prior:
        """Return the same prior on another device."""
        return Prior(self.mean.to(device), self.precision.to(device), self.mean_w.to(device))


def gaussianize(w: Tensor) -> Tensor:
    """Return ŵ = LeakyReLU(w, 5.0), which undoes the mapping network's last nonlinearity up to a factor (Eq. 3.6).

    Args:
        w: any shape, floating; the result has the same.
    """
    return F.leaky_relu(w, SLOPE)


def estimate_prior(
    generator: Generator,
    samples: int = 10_000,
    seed: int = 0,
    *,
    published_mean: bool = False,
    shrinkage: float = 0.0,
    label: Tensor | None = None,
    batch: int = 2_000,
) -> Prior:
    """Return the prior of a generator from random draws, on the CPU; to be computed once and kept.

    Args:
        generator: whose w is drawn, on any device.
        samples: number of draws; more than ``w_dim``, or the covariance has no inverse without shrinkage.
        seed: of the draws, which do not depend on the device or the batch.
        published_mean: see `prior_of`.
        shrinkage: see `prior_of`.
        label: see `draw_w`.
        batch: draws mapped together; limited by memory.

    Raises:
        ValueError: see `prior_of` and `draw_w`.
    """
    w = draw_w(generator, samples, seed, label=label, batch=batch)
    return prior_of(w, published_mean=published_mean, shrinkage=shrinkage)


@torch.no_grad()
def draw_w(
    generator: Generator, samples: int, seed: int = 0, *, label: Tensor | None = None, batch: int = 2_000
) -> Tensor:
    """Return w of random z, ``[samples, w_dim]`` on the CPU.

    Args:
        generator: whose mapping is used, without truncation; of each code the first row is returned.
        samples: number of draws.
        seed: of z, and of the classes where those are drawn.
        label: ``[label_dim]``, for all draws; without one, a conditional generator gets a class at random for each.
        batch: draws mapped together.

    Raises:
        ValueError: the label does not fit the generator.
    """
    random = torch.Generator().manual_seed(seed)
    z_Sz = torch.randn(samples, generator.z_dim, generator=random)
    labels_Sl = _labels(generator, samples, label, random)
    weight = next(generator.parameters())
    drawn = []
    for first in range(0, samples, batch):
        part = slice(first, first + batch)
        labels = None if labels_Sl is None else labels_Sl[part].to(weight)
        drawn.append(generator.map(z_Sz[part].to(weight), labels)[:, 0].cpu())
    return torch.cat(drawn)


# Thesis Eq. 3.6 prints Σ; the Mahalanobis distance that it means, and the authors' code computes, takes Σ⁻¹.
def prior_of(w_SD: Tensor, *, published_mean: bool = False, shrinkage: float = 0.0) -> Prior:
    """Return the prior that the given draws of w amount to.

    Args:
        w_SD: ``[S, w_dim]`` floating, S independent draws of w.
        published_mean: take LeakyReLU(mean of w) for the mean, as the authors' code does, instead of the mean of ŵ;
            the two differ wherever w takes both signs, by up to 0.65 in the network that was measured.
        shrinkage: how far to move the covariance towards the sphere: it times the mean eigenvalue is added to every
            eigenvalue. 0 leaves the covariance as it is, which is right for trained generators of 512 dimensions;
            a small generator whose ŵ barely varies in some directions (eigenvalues 1e-5 beside 60) needs 1e-3 or so,
            lest those directions alone decide the prior.

    Raises:
        ValueError: too few draws, a negative shrinkage, or a covariance that cannot be inverted.
    """
    _check_draws(w_SD, shrinkage)
    w = w_SD.double()
    w_hat = gaussianize(w)
    covariance = torch.cov(w_hat.T).reshape(w.shape[1], w.shape[1])
    ridge = RIDGE + shrinkage * covariance.diagonal().mean()  # the mean of the diagonal is that of the eigenvalues
    root, failed = torch.linalg.cholesky_ex(covariance + ridge * torch.eye(len(covariance), dtype=w.dtype))
    if bool(failed) or not bool(torch.isfinite(root).all()):
        raise ValueError(
            f"the covariance of {len(w)} draws of w has no inverse: check that the generator's w is finite "
            "and varies, or set shrinkage above 0"
        )
    mean_w = w.mean(dim=0)
    mean = gaussianize(mean_w) if published_mean else w_hat.mean(dim=0)
    return Prior(mean, torch.cholesky_inverse(root), mean_w)


def _check_draws(w_SD: Tensor, shrinkage: float) -> None:
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage must be at least 0, got {shrinkage}")
    if w_SD.ndim != 2 or len(w_SD) < 2:
        raise ValueError(f"wanted at least 2 draws of w, [S, w_dim], got {list(w_SD.shape)}")
    if len(w_SD) <= w_SD.shape[1] and shrinkage == 0:
        raise ValueError(
            f"{len(w_SD)} draws do not determine the covariance of {w_SD.shape[1]} dimensions: "
            f"draw more than {w_SD.shape[1]} samples (10,000 are usual), or set shrinkage above 0"
        )


def _labels(generator: Generator, samples: int, label: Tensor | None, random: torch.Generator) -> Tensor | None:
    if label is not None:
        if list(label.shape) != [generator.label_dim]:
            raise ValueError(f"label must be [{generator.label_dim}], got {list(label.shape)}")
        return label.float().expand(samples, -1)
    if generator.label_dim == 0:
        return None
    classes_S = torch.randint(generator.label_dim, (samples,), generator=random)
    return F.one_hot(classes_S, generator.label_dim).float()
