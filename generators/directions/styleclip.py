"""StyleCLIP in W+: the direction in which images move from one text towards another (Patashnik et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from generators.directions.clip import Clip, ClipModel
from generators.directions.direction import STANDARD_DEVIATION, Direction, Provenance, in_layers
from generators.directions.ganspace import Components, components_of
from generators.directions.sampling import random_w, seeded_w
from generators.directions.source import DirectionSource, StoredCodes
from generators.errors import DirectionError
from generators.generator import Generator

DRAWS = 20_000
"""Draws of w for the components."""
HELD_OUT = 32
"""Number of samples on which the effect is measured."""


class StyleClip(DirectionSource):
    """The global direction from a neutral text to a target text, for all images of a generator.

    StyleCLIP measures how much each channel of a StyleGAN2's style space moves CLIP's embedding of images along the
    difference of two texts (its relevance), and keeps the channels of large relevance (Sec. 6). Here a channel is a
    principal component of w in one row of w_plus, so that the direction is one of W+. The relevance is the derivative,
    which one backward pass gives for all channels, instead of a difference.
    """

    kind: Literal["styleclip"] = "styleclip"
    clip: ClipModel
    neutral: str = Field(min_length=1)  # text that describes the images, as "a car"
    target: str = Field(min_length=1)  # text that describes the change, as "a sports car"
    name: str = ""  # of the direction; the target text by default
    wordings: tuple[str, ...] = ("{}", "a photo of {}.", "a picture of {}.")  # averaged; {} is the text
    samples: PositiveInt = 100  # number of samples whose derivatives are averaged
    components: PositiveInt = 100  # components of w, at most w_dim; the others do not change
    keep: float = Field(0.3, ge=0, lt=1)  # relevances below this share of the largest become 0; more: fewer changes
    seed: int = Field(0, ge=0)  # of the samples
    label: int | None = None  # class of a conditional generator's samples; drawn by default

    def check(self) -> None:
        """Raise DirectionError if the CLIP model is missing."""
        self.clip.check()

    def fit(self, generator: Generator, stored: StoredCodes | None = None) -> tuple[Direction, ...]:
        """Return one direction `[num_ws, w_dim]`.

        Raises:
            DirectionError: the model cannot be loaded, or the two texts have equal embeddings.
        """
        name = self.name or self.target
        in_layers(torch.zeros(1, generator.w_dim), self.layers, generator.num_ws, name)
        device = next(generator.parameters()).device
        components = components_of(
            random_w(generator, DRAWS, self.seed, self.label), min(self.components, generator.w_dim)
        )
        clip = self.clip.load(device)
        towards_D = text_direction(clip, self.neutral, self.target, self.wordings)
        w_plus = torch.cat(list(seeded_w(generator, range(self.seed, self.seed + self.samples + HELD_OUT), self.label)))
        gradient_Nw = mean_gradient(generator, clip, w_plus[: self.samples], towards_D)
        delta = self._delta(gradient_Nw, components, generator.num_ws, name)
        figures = {"gain": gain(generator, clip, w_plus[self.samples :], delta, towards_D)}
        source = (
            f"{self.neutral!r} to {self.target!r}, {self.samples} samples from seed {self.seed}, CLIP {self.clip.shown}"
        )
        provenance = Provenance(
            kind=self.kind,
            unit=STANDARD_DEVIATION,
            source=source[:1000],
            source_sha256=clip.digest,
            figures=figures,
        )
        return (self._direction(name, delta, generator, provenance),)

    def _delta(self, gradient_Nw: Tensor, components: Components, num_ws: int, name: str) -> Tensor:
        axes_Kw = (components.axes * components.stdev[:, None]).float()
        relevance_NK = in_layers(gradient_Nw @ axes_Kw.T, self.layers, num_ws, name)
        largest = relevance_NK.abs().max()
        if not bool(largest > 0):
            raise DirectionError(f"no change of w moves the images from {self.neutral!r} to {self.target!r}")
        kept_NK = torch.where(relevance_NK.abs() >= self.keep * largest, relevance_NK, 0.0)
        rows = int(kept_NK.any(dim=1).sum())
        # length 1 in standard deviations, as a root mean square over the rows that change
        delta: Tensor = (kept_NK / kept_NK.norm() * rows**0.5) @ axes_Kw
        return delta


def text_direction(clip: Clip, neutral: str, target: str, wordings: Sequence[str]) -> Tensor:
    """Return the direction `[D]`, of length 1, between two texts in CLIP's space.

    Raises:
        DirectionError: their embeddings are equal.
    """
    before, after = (clip.text([words.replace("{}", text) for words in wordings]) for text in (neutral, target))
    if not bool((after - before).norm() > 1e-5):
        raise DirectionError(f"CLIP does not distinguish {target!r} from {neutral!r}: give other texts")
    towards_D: Tensor = F.normalize(after - before, dim=0)
    return towards_D


def mean_gradient(generator: Generator, clip: Clip, w_plus_SNw: Tensor, towards_D: Tensor) -> Tensor:
    """Return how CLIP's embedding of images along a direction changes with w, `[num_ws, w_dim]` on the CPU.

    Args:
        generator: whose images are embedded, one at a time.
        clip: on the same device.
        w_plus_SNw: `[S, num_ws, w_dim]`, over which the derivative is averaged.
        towards_D: of length 1.
    """
    total_Nw = torch.zeros(w_plus_SNw.shape[1:])
    for w_plus_Nw in w_plus_SNw:
        w = w_plus_Nw[None].to(towards_D.device).requires_grad_()
        (gradient,) = torch.autograd.grad((clip.images(generator.synthesize(w)) @ towards_D).sum(), w)
        total_Nw += gradient[0].cpu()
    return total_Nw / len(w_plus_SNw)


@torch.no_grad()
def gain(generator: Generator, clip: Clip, w_plus_SNw: Tensor, delta: Tensor, towards_D: Tensor) -> float:
    """Return how far magnitude 1 moves CLIP's embedding of images along a direction: a mean of cosines' differences."""
    moved = []
    for w_plus_Nw in w_plus_SNw:
        w = torch.stack([w_plus_Nw, w_plus_Nw + delta]).to(towards_D.device)
        before, after = clip.images(generator.synthesize(w)) @ towards_D
        moved.append(float(after - before))
    return sum(moved) / len(moved)
