"""The common parts of all ways to make a direction: settings, and the function that makes directions of a generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from generators.directions.direction import Direction, Layers, Provenance, in_layers
from generators.generator import Generator

StoredCodes = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Returns w_plus `[num_ws, w_dim]` of the inverted images of some keys, by key; unknown keys are omitted."""


class DirectionSource(BaseModel, ABC):
    """A way to make directions: a frozen model whose fields are its settings, with a `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    layers: Layers | None = None  # first and last row of w_plus that the directions change; all by default

    def check(self) -> None:
        """Raise DirectionError for faults that show without a generator."""

    @abstractmethod
    def fit(self, generator: Generator, stored: StoredCodes | None = None) -> tuple[Direction, ...]:
        """Return directions of a generator; `stored` gives codes of inverted images to a source that uses them."""

    def _direction(self, name: str, delta: Tensor, generator: Generator, provenance: Provenance) -> Direction:
        """Return a direction of `delta [1, w_dim]` in this source's layers, made for this generator."""
        about = {"kind": self.kind, "layers": self.layers, "generator_sha256": generator.digest}
        delta = in_layers(delta.float(), self.layers, generator.num_ws, name)
        return Direction(name, delta, provenance.model_copy(update=about))
