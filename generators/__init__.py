"""Pretrained generators: their networks, spaces, checkpoints and priors."""

from generators.checkpoints import load_generator
from generators.errors import CheckpointError, GeneratorError

__all__ = ["CheckpointError", "GeneratorError", "load_generator"]
