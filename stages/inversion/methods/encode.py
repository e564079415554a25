"""The encoder regime: codes in one pass, or a few (ReStyle), without any optimisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from generators.generator import Generator
from generators.latents import Codes
from stages.engine.memory import UNMEASURED
from stages.engine.result import Inversion, Trace
from stages.inversion.encoders import PublishedEncoder
from stages.inversion.encoders.encoder import EncoderSource, acting
from stages.inversion.methods.method import Assigned, Finder, Found, MethodSource
from stages.inversion.methods.space import Assign, assign_to
from stages.inversion.viewer import Viewer
from stages.objective.objective import TERMS

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class Encode(MethodSource):
    """Take the w_plus that a published encoder gives; start and schedule are not used."""

    kind: Literal["encode"] = "encode"
    encoder: PublishedEncoder  # the encoder

    @property
    def title(self) -> str:
        """The name in reports."""
        return "encoder"

    def check(self) -> None:
        """Raise `WeightsError` if the encoder lacks a file."""
        self.encoder.check()

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `GeneratorError` unless the encoder is one of this generator."""
        self.encoder.check_fits(generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load the encoder; it takes `batch` images at once (`auto`: 16), and as many as memory has room for."""
        return encoding(stage, viewer, self.encoder, assign_to(viewer.spaces[0], viewer.spaces))


def encoding(stage: InvertingStage, viewer: Viewer, source: EncoderSource, assign: Assign) -> Finder:
    """Return the method that takes an encoder's codes in the spaces of an assignment, `batch` images at once."""
    encoder = source.load(viewer, stage.precision)

    def find(images: Sequence[Assigned]) -> Iterator[Found]:
        assignment_NHW = np.stack([image.assignment_HW for image in images])
        codes = encoder.encode([image.photograph for image in images], assignment_NHW)
        codes = acting(codes, viewer.masks(assignment_NHW))
        return (_found_at(codes, number, encoder.passes) for number in range(len(images)))

    width = stage.batch if isinstance(stage.batch, int) else UNMEASURED
    return Finder(find, width, assign=assign, together=True)


def _found_at(codes: Codes, number: int, passes: int) -> Found:
    """Return the result of an image of a batch; its loss is not computed."""
    image = slice(number, number + 1)
    own = Codes(
        codes.w_plus[image],
        {space: delta[image] for space, delta in codes.deltas.items()},
        {space: mask[image] for space, mask in codes.masks.items()},
    )
    fine = all(bool(tensor.isfinite().all()) for tensor in (own.w_plus, *own.deltas.values()))
    nothing = {name: torch.zeros(0, 1, dtype=torch.float64) for name in (*TERMS, "total")}
    inversion = Inversion(own, Trace(torch.zeros(0, dtype=torch.int64), nothing), torch.tensor([not fine]))
    reason = "" if fine else "the codes that the encoder gives for it are not finite; check encoder and image"
    return Found(inversion, passes, None, reason=reason)
