"""The encoder regime of SAM: w_plus and the masked deltas of an image in one pass (thesis Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from generators.generator import Generator
from generators.latents import Codes
from stages.base.errors import SettingError
from stages.base.transfer import to_device
from stages.encoder.checkpoint import load_sam_encoder
from stages.encoder.fitting import shown
from stages.encoder.network import SamEncoder
from stages.engine.memory import UNMEASURED
from stages.inversion.methods.encode import found_at
from stages.inversion.methods.method import Assigned, Finder, Found, MethodSource
from stages.inversion.viewer import Viewer
from stages.objective.precision import computed_in, lowered

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
    def needs_training(self) -> bool:
        """Whether the run's own encoder is used."""
        return self.checkpoint is None

    def weight_files(self) -> tuple[Path, ...]:
        """Return its file, if it is not the run's own."""
        return () if self.checkpoint is None else (self.checkpoint,)

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` or `WeightsError` unless the file is an encoder of this generator in these spaces."""
        if self.checkpoint is not None:
            load_sam_encoder(self.checkpoint).check_fits(generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load the encoder; it takes `batch` images at once (`auto`: 16).

        Raises:
            SettingError: no checkpoint is named; a run puts that of its own encoder here.
        """
        if self.checkpoint is None:
            raise SettingError("invert.method: sam_encoder has no checkpoint; name one, or configure train_encoder")
        encoder = load_sam_encoder(self.checkpoint, viewer.device)
        encoder.check_fits(viewer.generator, viewer.spaces)
        precision = computed_in(stage.precision, viewer.device)

        def find(images: Sequence[Assigned]) -> Iterator[Found]:
            with torch.no_grad(), lowered(precision, viewer.device):
                codes = codes_of(encoder, viewer, images)
            return (found_at(codes, number, passes=1) for number in range(len(images)))

        return Finder(find, stage.batch if isinstance(stage.batch, int) else UNMEASURED, together=True)


def codes_of(encoder: SamEncoder, viewer: Viewer, images: Sequence[Assigned]) -> Codes:
    """Return the codes of images, float32 on the device, with the masks of their assignments."""
    assignment_NHW = np.stack([image.assignment_HW for image in images])
    image_N3HW = to_device(torch.stack([image.photograph.image_3HW for image in images]), viewer.device)
    on_device_NHW = to_device(torch.from_numpy(assignment_NHW), viewer.device)
    codes = encoder(*shown(image_N3HW, on_device_NHW, len(viewer.spaces), viewer.region, viewer.generator.resolution))
    masks = viewer.masks(assignment_NHW)
    return Codes(codes.w_plus.float(), {space: codes.deltas[space].float() for space in masks}, masks)
