"""StyleCLIP's optimisation: the change of w_plus that makes one image show a text (Patashnik et al. 2021, Sec. 4)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from generators.directions.clip import ClipModel
from generators.directions.direction import WHOLE_EDIT, Direction, Provenance, in_layers
from generators.directions.sampling import seeded_w
from generators.directions.source import DirectionSource, StoredCodes
from generators.errors import DirectionError
from generators.generator import Generator


class StyleClipImage(DirectionSource):
    """The edit of one image towards a text: Adam on 1 − cos(image, text) + l2 · ‖δw‖², without the loss on faces.

    The image is a sample of the generator, or the image of an inverted w_plus alone.
    """

    kind: Literal["styleclip-image"] = "styleclip-image"
    clip: ClipModel
    target: str = Field(min_length=1)  # text that describes the edited image
    image_seed: int | None = None  # a sample of the generator
    image_key: str | None = None  # an inverted image, instead
    name: str = ""  # of the direction; the target text by default
    wordings: tuple[str, ...] = ("{}",)  # averaged; {} is the text
    steps: PositiveInt = 300
    learning_rate: PositiveFloat = 0.1
    l2: float = Field(0.008, ge=0)  # weight of the squared length
    label: int | None = None  # class of a conditional generator's sample; drawn by default

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if (self.image_seed is None) == (self.image_key is None):
            raise ValueError("one image is edited: give its image_seed or its image_key")
        return self

    def check(self) -> None:
        """Raise DirectionError if the CLIP model is missing."""
        self.clip.check()

    def fit(self, generator: Generator, stored: StoredCodes | None = None) -> tuple[Direction, ...]:
        """Return one direction `[num_ws, w_dim]`, whose magnitude 1 is the edit that was optimised.

        Raises:
            DirectionError: the model cannot be loaded, the image is unknown, or the optimisation diverged.
        """
        name = self.name or self.target
        mask_Nw = in_layers(torch.ones(1, generator.w_dim), self.layers, generator.num_ws, name)
        start_1Nw = self._start(generator, stored)
        device = next(generator.parameters()).device
        clip = self.clip.load(device)
        text_D = clip.text([words.replace("{}", self.target) for words in self.wordings])
        w, mask = start_1Nw.to(device), mask_Nw.to(device)
        delta = torch.zeros_like(w, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=self.learning_rate)
        for _ in range(self.steps):
            distance = 1 - (clip.images(generator.synthesize(w + mask * delta)) @ text_D).sum()
            optimiser.zero_grad()
            (distance + self.l2 * (mask * delta).square().sum()).backward()
            optimiser.step()
        edit = (mask * delta).detach()
        if not bool(edit.isfinite().all()):
            raise DirectionError(
                f"the edit towards {self.target!r} diverged; lower learning_rate {self.learning_rate:g}"
            )
        with torch.no_grad():
            before, after = clip.images(generator.synthesize(torch.cat([w, w + edit]))) @ text_D
        figures = {"gain": float(after - before), "similarity": float(after)}
        image = f"seed {self.image_seed}" if self.image_key is None else f"image {self.image_key}"
        source = f"{image} to {self.target!r}, {self.steps} steps, CLIP {self.clip.shown}"[:1000]
        provenance = Provenance(
            kind=self.kind, unit=WHOLE_EDIT, source=source, source_sha256=clip.digest, figures=figures
        )
        return (self._direction(name, edit[0].cpu(), generator, provenance),)

    def _start(self, generator: Generator, stored: StoredCodes | None) -> Tensor:
        if self.image_seed is not None:
            return torch.cat(list(seeded_w(generator, [self.image_seed], self.label)))
        assert self.image_key is not None
        codes = {} if stored is None else stored([self.image_key])
        if self.image_key not in codes:
            where = "no store is given" if stored is None else "it was not inverted, or is quarantined"
            raise DirectionError(f"the codes of image {self.image_key!r} are unknown: {where}")
        w_plus = codes[self.image_key]
        if w_plus.shape != (generator.num_ws, generator.w_dim):
            raise DirectionError(
                f"image {self.image_key!r} has codes {list(w_plus.shape)}, and the generator's are "
                f"[{generator.num_ws}, {generator.w_dim}]: give the generator it was inverted with"
            )
        return w_plus[None]
