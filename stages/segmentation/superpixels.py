"""Segments without classes: superpixels, the whole image as one, and each pixel alone."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from stages.segmentation.source import Labeller, SegmentInput, Source


class Superpixels(Source):
    """Segments of similar colour (SLIC), for images without a semantic network; deterministic."""

    kind: Literal["superpixels"] = "superpixels"
    segments: PositiveInt = 60  # approximate number of segments
    compactness: PositiveFloat = 10.0  # larger values follow a grid more and colours less

    def _labeller(self, device: str | torch.device) -> Labeller:
        def label(sample: SegmentInput) -> NDArray[np.int32]:
            from skimage.segmentation import slic

            labels_HW = slic(
                sample.image_HW3, self.segments, compactness=self.compactness, start_label=0, channel_axis=-1
            )
            return np.asarray(labels_HW, dtype=np.int32)

        return label


class Whole(Source):
    """One segment, the whole image: every pixel is inverted in the same space."""

    kind: Literal["whole"] = "whole"

    def _labeller(self, device: str | torch.device) -> Labeller:
        return lambda sample: np.zeros(sample.size, dtype=np.int32)


class Pixels(Source):
    """Each pixel is a segment: maps are not refined (thesis Fig. 4.6, the ablation)."""

    kind: Literal["pixels"] = "pixels"

    def _labeller(self, device: str | torch.device) -> Labeller:
        return lambda sample: np.arange(sample.size[0] * sample.size[1], dtype=np.int32).reshape(sample.size)
