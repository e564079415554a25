"""The contract of an encoder: a setting that gives the codes of photographs in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from generators.generator import Generator
from generators.latents import Codes
from stages.base.variant import Variant
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.precision import Precision

Encode = Callable[[Sequence[Photograph], NDArray[np.uint8]], Codes]
"""Returns the codes of N photographs, float32 on the device, without masks.

The second argument is the space of each pixel of the region, `[N, H, W]` uint8 index into the viewer's spaces. An
encoder that gives deltas gives those of all its spaces, also of some that an image does not use: see `acting`.
"""


def acting(codes: Codes, masks: Mapping[str, Tensor]) -> Codes:
    """Return an encoder's codes with masks, `[N, 1, h, w]` by feature space, and the deltas of these spaces only."""
    return Codes(codes.w_plus, {space: codes.deltas[space] for space in masks}, masks)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder whose networks are loaded."""

    encode: Encode
    passes: int = 1
    """Of its network over each image."""


class EncoderSource(Variant, ABC):
    """Which encoder finds codes."""

    @abstractmethod
    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` or `StageError` if the encoder is not one of this generator, or cannot be loaded.

        Args:
            generator: of the run.
            spaces: of the run, most editable first.
        """

    @abstractmethod
    def load(self, viewer: Viewer, precision: Precision = "fp32") -> LoadedEncoder:
        """Load the encoder onto the viewer's device.

        Args:
            viewer: generator, region and spaces.
            precision: of its convolutions and products.

        Raises:
            GeneratorError: as `check_fits`.
        """
