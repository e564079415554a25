"""The encoder regime of SAM: w_plus and the masked deltas of an image in one pass (thesis Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from generators.generator import Generator
from stages.inversion.encoders import SamEncoderFile
from stages.inversion.methods.encode import encoding
from stages.inversion.methods.method import Finder, MethodSource, as_assigned
from stages.inversion.viewer import Viewer

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class FromSamEncoder(MethodSource):
    """Take the codes that a SAM encoder gives in the assigned spaces; start and schedule are not used."""

    kind: Literal["sam_encoder"] = "sam_encoder"
    checkpoint: Path | None = None
    """Its file, as `train_encoder` writes it; None is the encoder that this run trains."""

    @property
    def title(self) -> str:
        """The name in reports."""
        return "SAM encoder"

    @property
    def encoder(self) -> SamEncoderFile:
        """The encoder."""
        return SamEncoderFile(checkpoint=self.checkpoint)

    @property
    def needs_training(self) -> bool:
        """Whether the run's own encoder is used."""
        return self.encoder.needs_training

    def with_trained(self, checkpoint: Path) -> Self:
        """Return the method with the file of the run's own encoder, if it uses that."""
        return self.model_copy(update={"checkpoint": self.encoder.with_trained(checkpoint).checkpoint})

    def weight_files(self) -> tuple[Path, ...]:
        """Return its file, if it is not the run's own."""
        return self.encoder.weight_files()

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` or `WeightsError` unless the file is an encoder of this generator in these spaces."""
        self.encoder.check_fits(generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load the encoder; it takes `batch` images at once (`auto`: 16).

        Raises:
            SettingError: no checkpoint is named; a run puts that of its own encoder here.
        """
        return encoding(stage, viewer, self.encoder, as_assigned)
