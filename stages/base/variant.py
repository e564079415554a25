"""What the members of a union have in common from which a configuration chooses by `kind`: starts, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from stages.base.errors import WeightsError


class Variant(BaseModel):
    """One of several ways to do something; its fields are its configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def needs_training(self) -> bool:
        """Whether it uses the encoder that its run trains (`train_encoder`)."""
        return False

    def with_trained(self, checkpoint: Path) -> Self:
        """Return it with the file of the encoder that its run has trained, if it needs that."""
        return self

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files and folders that its results depend on."""
        return ()

    def check(self) -> None:
        """Raise `WeightsError` if `load` would lack something; loads nothing, so a run asks before it starts."""
        for path in self.weight_files():
            if not path.exists():
                raise WeightsError(
                    f"no weights at {path}: correct the path in the configuration, or put the file there"
                )

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return what a fingerprint holds of this variant in the field `name` of a stage.

        A variant that is older than its union keeps the settings under which it was hashed before, so that stores made
        then stay complete.
        """
        return {name: self}
