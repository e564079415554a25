"""The SAM encoder: w_plus and the deltas of all spaces in one pass, given where each space was assigned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from generators.generator import Generator
from generators.latents import Codes
from stages.base.errors import SettingError
from stages.base.transfer import to_device
from stages.encoder.checkpoint import load_sam_encoder
from stages.encoder.fitting import shown
from stages.inversion.encoders.encoder import EncoderSource, LoadedEncoder
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.precision import Precision, computed_in, lowered


class SamEncoderFile(EncoderSource):
    """A SAM encoder: a file that `train_encoder` has written, or the encoder that the run trains."""

    kind: Literal["sam"] = "sam"
    checkpoint: Path | None = None  # its file (.safetensors); None is the encoder that this run trains

    @property
    def needs_training(self) -> bool:
        """Whether the run's own encoder is used."""
        return self.checkpoint is None

    def with_trained(self, checkpoint: Path) -> Self:
        """Return the encoder with the file that its run has trained."""
        return self.model_copy(update={"checkpoint": checkpoint}) if self.needs_training else self

    def weight_files(self) -> tuple[Path, ...]:
        """Return its file, if it is not the run's own."""
        return () if self.checkpoint is None else (self.checkpoint,)

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` or `WeightsError` unless the file is an encoder of this generator in these spaces."""
        if self.checkpoint is not None:
            load_sam_encoder(self.checkpoint).check_fits(generator, spaces)

    def load(self, viewer: Viewer, precision: Precision = "fp32") -> LoadedEncoder:
        """Load the encoder; it sees the region on the generator's canvas.

        Raises:
            SettingError: no checkpoint is named; a run puts that of its own encoder here.
        """
        if self.checkpoint is None:
            raise SettingError("the SAM encoder has no checkpoint; name one, or configure train_encoder")
        encoder = load_sam_encoder(self.checkpoint, viewer.device)
        encoder.check_fits(viewer.generator, viewer.spaces)
        computed = computed_in(precision, viewer.device)

        def encode(photographs: Sequence[Photograph], assignment_NHW: NDArray[np.uint8]) -> Codes:
            image_N3HW = to_device(torch.stack([photograph.image_3HW for photograph in photographs]), viewer.device)
            assigned_NHW = to_device(torch.from_numpy(assignment_NHW), viewer.device)
            seen = shown(image_N3HW, assigned_NHW, len(viewer.spaces), viewer.region, viewer.generator.resolution)
            with torch.no_grad(), lowered(computed, viewer.device):
                codes = encoder(*seen)
            return Codes(codes.w_plus.float(), {space: delta.float() for space, delta in codes.deltas.items()})

        return LoadedEncoder(encode)
