"""The semantic segmentation of an image, whose segments are each given one space (thesis 3.1 end, 3.2)."""

from typing import Annotated

from pydantic import Field

from stages.segmentation.exported import ExportedNetwork
from stages.segmentation.huggingface import HuggingFace
from stages.segmentation.labels import Labels
from stages.segmentation.source import SegmentInput
from stages.segmentation.superpixels import Pixels, Superpixels, Whole

__all__ = ["ExportedNetwork", "HuggingFace", "Labels", "Pixels", "SegmentInput", "Segmentation", "Superpixels", "Whole"]

Segmentation = Annotated[
    Labels | Superpixels | ExportedNetwork | HuggingFace | Whole | Pixels, Field(discriminator="kind")
]
