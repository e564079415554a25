"""The choice of a run's segmenter: trained on its own supervision, or an existing checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from stages.base.errors import WeightsError
from stages.base.variant import Variant
from stages.segmenter.network import Segmenter, load_segmenter


class TrainedHere(Variant):
    """The segmenter is trained on the run's own supervision, as configured by `train_segmenter`."""

    kind: Literal["trained"] = "trained"


class Published(Variant):
    """The segmenter is a checkpoint: the method's authors', or of another run. No error maps are made."""

    kind: Literal["published"]
    weights: Path  # a torch.save file as published by the authors, or a .safetensors of train_segmenter

    def weight_files(self) -> tuple[Path, ...]:
        """Return the checkpoint."""
        return (self.weights,)

    def load(self, spaces: Sequence[str]) -> Segmenter:
        """Return the segmenter on the CPU.

        Raises:
            WeightsError: the file is not a segmenter's, or predicts other spaces than these.
        """
        segmenter = load_segmenter(self.weights, torch.device("cpu"))
        if segmenter.spaces != tuple(spaces):
            raise WeightsError(
                f"{self.weights} predicts errors of {', '.join(segmenter.spaces)}, but this run inverts in "
                f"{', '.join(spaces)}: set spaces to [{', '.join(segmenter.spaces)}], or give another segmenter"
            )
        return segmenter


SegmenterChoice = Annotated[TrainedHere | Published, Field(discriminator="kind")]
