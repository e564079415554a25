"""GANSpace: the principal components of w (Härkönen et al. 2020), computed in memory that does not grow with draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from generators.directions.direction import STANDARD_DEVIATION, Direction, Provenance, in_layers, is_of_z, of_codes
from generators.directions.sampling import one_hot, random_w
from generators.directions.source import DirectionSource, StoredCodes
from generators.errors import DirectionError
from generators.generator import Generator


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components: `axes [K, w_dim]` of length 1, `stdev [K]` along them, `share [K]` of the variance."""

    mean: Tensor
    axes: Tensor
    stdev: Tensor
    share: Tensor


class GanSpace(DirectionSource):
    """The directions in which a generator's w varies most, each as long as the standard deviation along it.

    They are named by their numbers, from 0, the largest first. Without a mapping network, as in a BigGAN-deep, they are
    directions of z: those that change the output of the first layer most.
    """

    kind: Literal["ganspace"] = "ganspace"
    components: PositiveInt = 20  # how many are kept
    samples: int = Field(100_000, ge=2)  # draws of w; a standard deviation is then known to 0.2 %; none of z
    seed: int = 0  # of the draws
    label: int | None = None  # class of a conditional generator's draws; drawn by default

    def fit(self, generator: Generator, stored: StoredCodes | None = None) -> tuple[Direction, ...]:
        """Return the first components.

        Raises:
            DirectionError: the generator has fewer dimensions than components are wanted, or lacks the class.
        """
        in_layers(torch.zeros(1, generator.w_dim), self.layers, generator.num_ws, "0")
        if is_of_z(generator):
            return self._of_z(generator)
        if not self.components <= min(generator.w_dim, self.samples - 1):
            raise DirectionError(
                f"{self.components} components of {self.samples} draws of w in {generator.w_dim} dimensions: there are "
                f"at most {min(generator.w_dim, self.samples - 1)}; ask for fewer, or draw more samples"
            )
        found = components_of(random_w(generator, self.samples, self.seed, self.label), self.components)
        source = f"{self.samples} draws of w, seed {self.seed}" + (
            "" if self.label is None else f", class {self.label}"
        )
        directions = []
        for i, (axis_w, stdev, share) in enumerate(zip(found.axes, found.stdev, found.share, strict=True)):
            figures = {"stdev": float(stdev), "share_of_variance": float(share)}
            provenance = Provenance(kind=self.kind, unit=STANDARD_DEVIATION, source=source, figures=figures)
            directions.append(self._direction(str(i), (axis_w * stdev)[None], generator, provenance))
        return tuple(directions)

    def _of_z(self, generator: Generator) -> tuple[Direction, ...]:
        one_hot(generator, torch.tensor([self.label or 0]))
        if not self.components <= generator.z_dim:
            raise DirectionError(
                f"{self.components} components of z, which has {generator.z_dim} dimensions; ask for fewer"
            )
        axes_Kz, share_K = components_of_z(generator, self.components)
        directions = []
        for i, (axis_z, share) in enumerate(zip(axes_Kz, share_K, strict=True)):
            figures = {"stdev": 1.0, "share_of_variance": float(share)}
            source = "z, by its effect on the output of the first layer"
            provenance = Provenance(kind=self.kind, unit=STANDARD_DEVIATION, source=source, figures=figures)
            delta_1w = of_codes(axis_z[None], generator, str(i))
            directions.append(self._direction(str(i), delta_1w, generator, provenance))
        return tuple(directions)


@torch.no_grad()
def components_of_z(generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """Return the directions of z that change the output of the first layer most: `[K, z_dim]` of length 1, and shares.

    GANSpace takes the principal components of the first layer's output over random z, and fits the directions of z that
    lead along them by regression. The first layer is linear and z is normal, so these directions are the right singular
    vectors of its weights, without draws. The class only moves the mean. Along each the standard deviation of z is 1.
    Each points to where its largest number is positive.

    Args:
        generator: whose codes begin with z.
        count: of the components that are returned, at most `z_dim`.

    Returns:
        directions, and the share of the output's variance that each explains, both float64.
    """
    weight = next(generator.parameters())
    w = torch.zeros(1 + generator.z_dim, generator.num_ws, generator.w_dim, dtype=weight.dtype, device=weight.device)
    w[1:, :, : generator.z_dim] = torch.eye(generator.z_dim, dtype=weight.dtype, device=weight.device)[:, None]
    output = generator.begin(w).feature.flatten(1).double().cpu()
    response_zF = output[1:] - output[0]
    square_z, axes_zz = torch.linalg.eigh(response_zF @ response_zF.T)
    square_z = square_z.flip(0).clamp(min=0)
    axes_Kz = axes_zz.flip(1).T[:count]
    largest_K1 = axes_Kz.gather(1, axes_Kz.abs().argmax(dim=1, keepdim=True))
    return axes_Kz * largest_K1.sign(), square_z[:count] / square_z.sum()


def components_of(batches: Iterable[Tensor], count: int) -> Components:
    """Return the first principal components of w, in float64.

    Mean and covariance are updated batch by batch, so the result is exact for any batches. scikit-learn's
    IncrementalPCA, which GANSpace uses, forgets what lies outside the components it keeps. Each axis points to where
    its largest number is positive.

    Args:
        batches: `[n, w_dim]` floating.
        count: of the components that are returned, at most `w_dim`.

    Raises:
        DirectionError: fewer than two draws, or numbers that are not finite.
    """
    total, mean_w, scatter_ww = 0, torch.zeros(()), torch.zeros(())
    for batch_nw in batches:
        x_nw = batch_nw.double()
        n, batch_mean_w = len(x_nw), x_nw.mean(dim=0)
        centred_nw, away_w = x_nw - batch_mean_w, batch_mean_w - mean_w
        scatter_ww = scatter_ww + centred_nw.T @ centred_nw + torch.outer(away_w, away_w) * (total * n / (total + n))
        mean_w = mean_w + away_w * (n / (total + n))
        total += n
    if total < 2 or not bool(scatter_ww.isfinite().all()):
        raise DirectionError(
            f"{total} draws of w, or draws that are not finite, have no components: check the generator"
        )
    variance_w, axes_ww = torch.linalg.eigh(scatter_ww / (total - 1))
    variance_w = variance_w.flip(0).clamp(min=0)
    axes_Kw = axes_ww.flip(1).T[:count]
    largest_K1 = axes_Kw.gather(1, axes_Kw.abs().argmax(dim=1, keepdim=True))
    return Components(
        mean_w, axes_Kw * largest_K1.sign(), variance_w[:count].sqrt(), variance_w[:count] / variance_w.sum()
    )
