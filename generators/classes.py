"""The classes of a conditional generator: the mean code of each, and the mean of its prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.generator import Generator
from generators.prior import draw_w, gaussianize

DRAWS = 10_000  # of z per class, as for the prior; the same z for every class


@torch.no_grad()
def mean_w_of_class(generator: Generator, label: int) -> Tensor:
    """Return the mean code of a class, `[w_dim]` float32 on the generator's device.

    For a BigGAN-deep it is the mean z followed by the embedding of the class. All classes share their draws of z, so
    that z cancels exactly in the difference of two.

    Args:
        generator: conditional, on any device.
        label: 0 to `label_dim` - 1.
    """
    return _draws(generator, label).mean(dim=0).float().to(next(generator.parameters()).device)


@torch.no_grad()
def prior_mean_of_class(generator: Generator, label: int, *, published_mean: bool = False) -> Tensor:
    """Return the mean of the prior of a class (thesis Eq. 3.6), `[w_dim]` float64 on the generator's device.

    Args:
        generator: conditional, on any device.
        label: 0 to `label_dim` - 1.
        published_mean: see `generators.prior.prior_of`.
    """
    w_SD, slope = _draws(generator, label), generator.gaussian_slope
    mean = gaussianize(w_SD.mean(dim=0), slope) if published_mean else gaussianize(w_SD, slope).mean(dim=0)
    return mean.to(next(generator.parameters()).device)


def _draws(generator: Generator, label: int) -> Tensor:
    """Return codes of a class, `[DRAWS, w_dim]` float64 on the CPU."""
    one_hot = F.one_hot(torch.tensor(label), generator.label_dim).float()
    return draw_w(generator, DRAWS, label=one_hot).double()
