"""Pretrained generators, encoders and edit directions: networks, spaces, checkpoints and priors."""

from generators.checkpoints import load_generator
from generators.directions.loading import load_direction
from generators.encoders.loading import load_encoder
from generators.errors import CheckpointError, DirectionError, GeneratorError

__all__ = [
    "CheckpointError",
    "DirectionError",
    "GeneratorError",
    "load_direction",
    "load_encoder",
    "load_generator",
]
