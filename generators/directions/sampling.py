"""Codes w of random samples: many in batches, or single ones by their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generators.errors import DirectionError
from generators.generator import Generator
from generators.latents import W_PLUS

CHUNK = 4096
"""Codes mapped at a time: 8 MB of w at 512 dimensions. The draws depend on it, so it is fixed."""
MAX_SEED = 2**32 - 1


@torch.no_grad()
def random_w(generator: Generator, samples: int, seed: int, label: int | None = None) -> Iterator[Tensor]:
    """Yield w of random z, `[n, w_dim]` on the CPU, without truncation; memory does not grow with `samples`.

    Args:
        generator: whose mapping is used; of each code the first row is returned.
        samples: number of draws over all batches.
        seed: seed of z, and of the classes if they are drawn.
        label: class of all draws; None draws one for each, if the generator has classes.

    Raises:
        DirectionError: the generator has no mapping network, or not this class.
    """
    _check_mapping(generator)
    random = torch.Generator().manual_seed(seed)
    weight = next(generator.parameters())
    for first in range(0, samples, CHUNK):
        count = min(CHUNK, samples - first)
        z_nz = torch.randn(count, generator.z_dim, generator=random)
        classes_n = torch.randint(max(generator.label_dim, 1), (count,), generator=random)
        label_nl = one_hot(generator, classes_n if label is None else torch.full((count,), label))
        labels = None if label_nl is None else label_nl.to(weight)
        yield generator.map(z_nz.to(weight), labels)[:, 0].cpu()


@torch.no_grad()
def seeded_w(
    generator: Generator, seeds: Sequence[int], label: int | None = None, truncation: float = 1.0
) -> Iterator[Tensor]:
    """Yield w_plus of samples identified by their seeds, `[n, num_ws, w_dim]` on the CPU, in batches.

    z is `numpy.random.RandomState(seed).randn(1, z_dim)`, as in `generate.py --seeds` of NVIDIA's repositories; the
    class of a conditional generator is then drawn from the same state, unless it is given.

    Args:
        generator: of any family.
        seeds: 0 to 2^32 - 1.
        label: class of all samples; None draws one for each, if the generator has classes.
        truncation: psi.

    Raises:
        DirectionError: a seed or the class is out of range.
    """
    if wrong := [seed for seed in seeds if not 0 <= seed <= MAX_SEED]:
        raise DirectionError(f"seeds are 0 to {MAX_SEED}, got {wrong[0]}")
    weight = next(generator.parameters())
    for first in range(0, len(seeds), CHUNK):
        states = [np.random.RandomState(seed) for seed in seeds[first : first + CHUNK]]  # as published
        z_nz = torch.from_numpy(np.concatenate([state.randn(1, generator.z_dim) for state in states])).to(weight)
        drawn = [label if label is not None else int(state.randint(max(generator.label_dim, 1))) for state in states]
        label_nl = one_hot(generator, torch.tensor(drawn))
        labels = None if label_nl is None else label_nl.to(weight)
        yield generator.map(z_nz, labels, truncation).cpu()


def one_hot(generator: Generator, classes_n: Tensor) -> Tensor | None:
    """Return labels `[n, label_dim]` of classes; None for an unconditional generator, whose one class is 0.

    Raises:
        DirectionError: the generator lacks a class.
    """
    count = max(generator.label_dim, 1)
    if not bool(((classes_n >= 0) & (classes_n < count)).all()):
        raise DirectionError(f"class {int(classes_n[0])}: this generator has classes 0 to {count - 1}")
    return F.one_hot(classes_n, generator.label_dim).float() if generator.label_dim else None


def _check_mapping(generator: Generator) -> None:
    if generator.spaces[0] != W_PLUS:
        raise DirectionError(
            f"this direction is found in w, and a {generator.family} has no mapping network: fit ganspace or labels, "
            "whose directions are then of z"
        )
