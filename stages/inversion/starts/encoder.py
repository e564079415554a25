"""The start of the authors' code: the output of an encoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from generators.generator import Generator
from generators.prior import Prior
from stages.base.errors import BadSampleError
from stages.inversion.encoders import AnyEncoder
from stages.inversion.starts.start import Begin, StartSource
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.objective import Objective, Target


class EncoderStart(StartSource):
    """Start at the w_plus that an encoder gives; images pass through it one by one, so neighbours change nothing."""

    kind: Literal["encoder"] = "encoder"
    encoder: AnyEncoder  # the encoder

    def check(self) -> None:
        """Raise `WeightsError` if the encoder lacks a file."""
        self.encoder.check()

    def check_fits(self, generator: Generator) -> None:
        """Raise `GeneratorError` unless the encoder is one of this generator."""
        self.encoder.check_fits(generator)

    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Load the encoder."""
        encode = self.encoder.load(viewer).encode

        def begin(photograph: Photograph, target: Target) -> Tensor:
            w_plus = encode([photograph], {}).w_plus
            if not bool(w_plus.isfinite().all()):
                raise BadSampleError("the codes that the encoder gives for it are not finite; check encoder and image")
            return w_plus

        return begin
