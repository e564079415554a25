"""Pretrained generators and encoders: their networks, spaces, checkpoints and priors."""

from generators.checkpoints import load_generator
from generators.encoders.loading import load_encoder
from generators.errors import CheckpointError, GeneratorError

__all__ = ["CheckpointError", "GeneratorError", "load_encoder", "load_generator"]
