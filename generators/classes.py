"""The classes of a conditional generator: the mean code of each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.generator import Generator
from generators.prior import draw_w

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
    one_hot = F.one_hot(torch.tensor(label), generator.label_dim).float()
    mean_w = draw_w(generator, DRAWS, label=one_hot).double().mean(dim=0)
    return mean_w.float().to(next(generator.parameters()).device)
