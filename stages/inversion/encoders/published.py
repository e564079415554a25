"""Published encoders into W+: e4e, pSp and ReStyle, from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, PositiveInt
from torch import Tensor

from generators import load_encoder
from generators.encoders.encoder import Encoder
from generators.generator import Generator
from generators.latents import Codes
from stages.base.in_parts import InParts
from stages.base.transfer import to_device
from stages.inversion.encoders.encoder import EncoderSource, LoadedEncoder
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.precision import Precision, computed_in, in_precision, lowered


def _local(value: object) -> object:
    """Refuse addresses: the digest of an encoder must be known before anything is fetched."""
    if isinstance(value, str) and "://" in value:
        raise ValueError("encoders are local files: download it, and give its path")
    return value


class PublishedEncoder(EncoderSource):
    """A published encoder: e4e, pSp or ReStyle, told by the content of its file."""

    kind: Literal["published"] = "published"
    checkpoint: Annotated[Path, BeforeValidator(_local)]  # a local file (.pt), as published
    iterations: PositiveInt | None = None  # passes of a ReStyle encoder; None is as published (5)

    def weight_files(self) -> tuple[Path, ...]:
        """Return its file."""
        return (self.checkpoint,)

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` unless the file holds an encoder for generators of this one's sizes."""
        self._encoder(generator, torch.device("cpu"))

    def load(self, viewer: Viewer, precision: Precision = "fp32") -> LoadedEncoder:
        """Load the encoder; it sees the region, resized to its input."""
        device = viewer.device
        computed = computed_in(precision, device)
        encoder = in_precision(self._encoder(viewer.generator, device), computed, "network.")

        def codes(images_N3HW: Tensor) -> Tensor:
            with torch.no_grad(), lowered(computed, device):
                found: Tensor = encoder(images_N3HW)
            return found.float()

        in_parts = InParts(codes, "the encoder's passes", "choose a smaller encoder")

        def encode(photographs: Sequence[Photograph], assignment_NHW: NDArray[np.uint8]) -> Codes:
            images_N3HW = torch.stack([photograph.image_3HW for photograph in photographs])
            return Codes(in_parts(to_device(images_N3HW, device)))

        return LoadedEncoder(encode, encoder.iterations)

    def _encoder(self, generator: Generator, device: torch.device) -> Encoder:
        self.check()
        encoder = load_encoder(self.checkpoint, device, iterations=self.iterations)
        encoder.check_fits(generator)
        return encoder
