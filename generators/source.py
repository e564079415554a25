"""The source of a pretrained generator: the part of a configuration that names a checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_serializer

from generators.checkpoints import load_generator
from generators.families.stylegan2 import Noise
from generators.generator import Generator
from infra.fetching.uri import shown


def _path_unless_address(value: object) -> Path | str:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path or an address")  # noqa: TRY004  # pydantic reports ValueErrors only
    return value if isinstance(value, str) and "://" in value else Path(value)


Checkpoint = Annotated[Path | str, BeforeValidator(_path_unless_address)]
"""A local path, or an address as text: `s3://BUCKET/KEY`, `https://…`."""

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]


class GeneratorSource(BaseModel):
    """A pretrained generator: its checkpoint and options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Checkpoint  # a path, s3:// or https:// address; one that ends in / is a BigGAN-deep folder
    noise: Noise = "const"  # of StyleGAN2: the noise stored in the checkpoint, or none
    truncation: float = Field(default=1.0, gt=0, le=1)  # of BigGAN-deep's batch-norm statistics
    sha256: Sha256 | None = None  # expected SHA-256 of the checkpoint; a fetched copy then needs no server

    @property
    def name(self) -> str:
        """The last part of the checkpoint's path or address."""
        return PurePosixPath(shown(self.checkpoint)).name

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides its results: the content of the checkpoint, by its path if its digest is unknown.

        Raises:
            ValueError: the content of an address is unknown until a plan fetches it.
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
