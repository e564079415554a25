"""Edit directions: read from files, or made for a generator (thesis Sec. 3.4)."""

from typing import Annotated

from pydantic import Field

from generators.directions.direction import Direction, Provenance, check_fits
from generators.directions.ganspace import GanSpace
from generators.directions.labels import Labels
from generators.directions.loading import DirectionFile, load_direction, read_directions
from generators.directions.own import save_directions

__all__ = [
    "AnyDirectionSource",
    "Direction",
    "DirectionFile",
    "GanSpace",
    "Labels",
    "Provenance",
    "check_fits",
    "load_direction",
    "read_directions",
    "save_directions",
]

AnyDirectionSource = Annotated[GanSpace | Labels, Field(discriminator="kind")]
"""Every way to make directions."""
