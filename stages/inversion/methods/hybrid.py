"""Optimisation that starts from an encoder: in W+ the hybrid of e4e and others, in the spaces of maps hybrid SAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from generators.generator import Generator
from stages.inversion.encoders import AnyEncoder
from stages.inversion.methods.method import Finder, MethodSource
from stages.inversion.methods.optimise import optimiser
from stages.inversion.methods.space import MAPS, check_space, in_space
from stages.inversion.starts import EncoderStart, Mean
from stages.inversion.viewer import Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class Hybrid(MethodSource):
    """Optimise from an encoder's codes: the same as `optimise` with `start: {kind: encoder}`."""

    kind: Literal["hybrid"] = "hybrid"
    encoder: AnyEncoder  # the encoder
    spaces: str = MAPS  # `maps`, or one space for the whole image, as for `optimise`

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"optimisation from an encoder{in_space(self.spaces)}"

    @property
    def needs_training(self) -> bool:
        """Whether the encoder is the run's own."""
        return self.encoder.needs_training

    def with_trained(self, checkpoint: Path) -> Self:
        """Return the method with the file of the run's own encoder, if it uses that."""
        return self.model_copy(update={"encoder": self.encoder.with_trained(checkpoint)})

    def check(self) -> None:
        """Raise `WeightsError` if the encoder lacks a file."""
        self.encoder.check()

    def check_settings(self, stage: InvertingStage) -> None:
        """Raise `ValueError` if another start is configured."""
        if stage.start != Mean():
            raise ValueError("start and the hybrid's encoder both say where inversions start: remove start")

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise an error of ours unless encoder and space are of this generator."""
        check_space(self.spaces, generator, spaces)
        self.encoder.check_fits(generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load encoder and prior."""
        check_space(self.spaces, viewer.generator, viewer.spaces)
        started = stage.model_copy(update={"start": EncoderStart(encoder=self.encoder)})
        return optimiser(started.inverter_with(viewer), self.spaces, stage.batch)
