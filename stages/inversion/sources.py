"""Where a stage's pretrained networks come from: the part of its configuration that names checkpoints."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_serializer

from generators import load_generator
from generators.families.stylegan2 import Noise
from generators.generator import Generator
from generators.remote import shown

if TYPE_CHECKING:
    from stages.perceptual.distance import Perceptual


def _path_unless_address(value: object) -> Path | str:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path or an address")  # noqa: TRY004  # pydantic reports ValueErrors only
    return value if isinstance(value, str) and "://" in value else Path(value)


Checkpoint = Annotated[Path | str, BeforeValidator(_path_unless_address)]
"""A local path, or an address as text: `s3://BUCKET/KEY`, `https://…`."""

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]


class GeneratorSource(BaseModel):
    """A pretrained generator: its checkpoint, and how it is driven."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Checkpoint  # a path, s3:// or https:// address; one that ends in / is a BigGAN-deep folder
    noise: Noise = "const"  # of StyleGAN2: the noise stored in the checkpoint, or none
    truncation: float = Field(default=1.0, gt=0, le=1)  # of BigGAN-deep's batch-norm statistics
    sha256: Sha256 | None = None  # what the checkpoint must be; a fetched one is then used without asking the server

    @property
    def name(self) -> str:
        """The last part of the checkpoint's path or address."""
        return PurePosixPath(shown(self.checkpoint)).name

    @property
    def identity(self) -> dict[str, object]:
        """What decides this source's results: the content of the checkpoint, by its path where nobody told its digest.

        Raises:
            ValueError: an address does not say what is under it; a plan finds that out.
        """
        if self.sha256 is None and not isinstance(self.checkpoint, Path):
            raise ValueError(f"the digest of {self.name} is not known yet")
        truncation = {} if self.truncation == 1.0 else {"truncation": self.truncation}
        return {"checkpoint": self.sha256 or self.checkpoint, "noise": self.noise, **truncation}

    @field_serializer("checkpoint")
    def _without_secrets(self, checkpoint: Path | str) -> str:
        return shown(checkpoint)

    def load(self, device: torch.device) -> Generator:
        """Return the generator, frozen, on `device`; raises `CheckpointError` if the checkpoint is not one."""
        return load_generator(self.checkpoint, device, self.truncation, self.noise, sha256=self.sha256)


class PerceptualSource(BaseModel):
    """A perceptual distance: LPIPS with one of its published backbones, or the demo's small one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal["vgg", "alex", "squeeze", "small"] = "vgg"  # small is the demo's
    weights: Path | None = None  # of the backbone, torchvision key names; None looks in torchvision's own cache

    def resolved(self) -> PerceptualSource:
        """Return the same with the path of its weights filled in; raises `WeightsError` if they are nowhere."""
        from stages.perceptual.distance import (
            cached_weights,  # lpips imports torchvision: seconds that a plan need not wait
        )

        return self if self.weights is not None else self.model_copy(update={"weights": cached_weights(self.backbone)})

    def check(self) -> None:
        """Raise `WeightsError` where the weights are missing, damaged or of another network, by loading them once."""
        self.resolved().load(torch.device("cpu"))

    def load(self, device: torch.device) -> Perceptual:
        """Return the distance, frozen, on `device`; raises `WeightsError` if the weights are missing or others."""
        from stages.perceptual.distance import load_perceptual

        return load_perceptual(self.backbone, weights=self.weights, device=device)


def column(space: str) -> str:
    """Return how a space is written in the names of parquet columns: `W+` is `w_plus`, `F4` is `f4`."""
    return space.lower().replace("+", "_plus")
