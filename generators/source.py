"""The source of a pretrained generator: the part of a configuration that names a checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
from pydantic import BaseModel, BeforeValidator, StringConstraints, field_serializer

from generators.checkpoints import load_generator
from generators.families.registry import OPTIONS
from generators.generator import Generator
from infra.fetching.uri import shown


def _path_unless_address(value: object) -> Path | str:
    if not isinstance(value, str | Path):
        raise ValueError("must be a path or an address")  # noqa: TRY004  # pydantic reports ValueErrors only
    return value if isinstance(value, str) and "://" in value else Path(value)


Checkpoint = Annotated[Path | str, BeforeValidator(_path_unless_address)]
"""A local path, or an address as text: `s3://BUCKET/KEY`, `https://…`."""

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]


_IDENTIFIED = {"noise"}
"""Options that are part of every identity; others only where they are not the default."""


class _Located(BaseModel):
    checkpoint: Checkpoint  # a path, s3:// or https:// address; one that ends in / is a BigGAN-deep folder


class GeneratorSource(*reversed(OPTIONS), _Located):  # type: ignore[misc]  # pydantic orders fields from the last base
    """A pretrained generator: its checkpoint and options."""

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
        chosen = {
            name: getattr(self, name)
            for kind in OPTIONS
            for name, field in kind.model_fields.items()
            if name in _IDENTIFIED or getattr(self, name) != field.default
        }
        return {"checkpoint": self.sha256 or self.checkpoint, **chosen}

    @field_serializer("checkpoint")
    def _without_secrets(self, checkpoint: Path | str) -> str:
        return shown(checkpoint)

    def load(self, device: torch.device) -> Generator:
        """Return the generator, frozen, on `device`; raise `CheckpointError` if the checkpoint is not one."""
        options = {name: getattr(self, name) for kind in OPTIONS for name in kind.model_fields}
        return load_generator(self.checkpoint, device, sha256=self.sha256, **options)
