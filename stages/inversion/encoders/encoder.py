"""The contract of an encoder: a setting that gives the codes of photographs in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from stages.base.variant import Variant
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.precision import Precision

Encode = Callable[[Sequence[Photograph], Mapping[str, Tensor]], Codes]
"""Returns the codes of N photographs, float32 on the device.

The second argument is the masks in which deltas act, `[N, 1, h, w]` by feature space; empty if only w_plus is needed.
"""


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder whose networks are loaded."""

    encode: Encode
    passes: int = 1
    """Of its network over each image."""


class EncoderSource(Variant, ABC):
    """Which encoder finds codes."""

    masked: ClassVar[bool] = False
    """Whether its codes have deltas, which act in the spaces that maps assign; otherwise all is in the first space."""

    @abstractmethod
    def check_fits(self, generator: Generator) -> None:
        """Raise `GeneratorError` or `StageError` if the encoder is not one of this generator, or cannot be loaded."""

    @abstractmethod
    def load(self, viewer: Viewer, precision: Precision = "fp32") -> LoadedEncoder:
        """Load the encoder onto the viewer's device.

        Args:
            viewer: generator and region.
            precision: of its convolutions and products.

        Raises:
            GeneratorError: as `check_fits`.
        """
