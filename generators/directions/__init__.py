"""Edit directions: read from files, or fitted to a generator (thesis Sec. 3.4)."""

from generators.directions.direction import Direction, Provenance, check_fits
from generators.directions.loading import DirectionFile, load_direction, read_directions
from generators.directions.own import save_directions

__all__ = [
    "Direction",
    "DirectionFile",
    "Provenance",
    "check_fits",
    "load_direction",
    "read_directions",
    "save_directions",
]
