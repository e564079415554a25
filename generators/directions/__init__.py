"""Edit directions: read from files, or made for a generator (thesis Sec. 3.4)."""

from typing import Annotated

from pydantic import Field

from generators.directions.direction import Direction, Provenance, check_fits
from generators.directions.ganspace import GanSpace
from generators.directions.labels import Labels
from generators.directions.loading import DirectionFile, load_direction, read_directions
from generators.directions.own import save_directions
from generators.directions.styleclip import StyleClip
from generators.directions.styleclip_image import StyleClipImage

__all__ = [
    "AnyDirectionSource",
    "Direction",
    "DirectionFile",
    "GanSpace",
    "Labels",
    "Provenance",
    "StyleClip",
    "StyleClipImage",
    "check_fits",
    "load_direction",
    "read_directions",
    "save_directions",
]

AnyDirectionSource = Annotated[GanSpace | Labels | StyleClip | StyleClipImage, Field(discriminator="kind")]
"""Every way to make directions."""
