"""The start of the authors' code: the output of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior
from stages.base.errors import BadSampleError
from stages.engine.schedule import Schedule
from stages.inversion.encoders import AnyEncoder
from stages.inversion.starts.start import Begin, StartSource
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.objective import Objective, Target


class EncoderStart(StartSource):
    """Start at the codes that an encoder gives; images pass through it one by one, so neighbours change nothing."""

    schedule: ClassVar[Schedule] = Schedule(steps=251)

    kind: Literal["encoder"] = "encoder"
    encoder: AnyEncoder  # the encoder

    @property
    def needs_training(self) -> bool:
        """Whether the encoder is the run's own."""
        return self.encoder.needs_training

    def with_trained(self, checkpoint: Path) -> Self:
        """Return the start with the file of the run's own encoder, if it uses that."""
        return self.model_copy(update={"encoder": self.encoder.with_trained(checkpoint)})

    def check(self) -> None:
        """Raise `WeightsError` if the encoder lacks a file."""
        self.encoder.check()

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise an error of ours unless the encoder is one of this generator."""
        self.encoder.check_fits(generator, spaces)

    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Load the encoder."""
        encode = self.encoder.load(viewer).encode

        def begin(photograph: Photograph, target: Target, assignment_HW: NDArray[np.uint8]) -> Codes:
            codes = encode([photograph], assignment_HW[None])
            if not all(bool(tensor.isfinite().all()) for tensor in (codes.w_plus, *codes.deltas.values())):
                raise BadSampleError("the codes that the encoder gives for it are not finite; check encoder and image")
            return codes

        return begin
