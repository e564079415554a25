"""The errors a user can meet, drawn in one place.

    InfraError        storage, shards, bundles         (infra.errors)
    GeneratorError    checkpoints                      (generators.errors)
    StageError        samples and weights              (stages.base.errors)
    PipelineError     configuration and runs           (here)

A bad sample is quarantined, a transient fault is tried again, anything else stops the run with its message.
"""

from generators.errors import GeneratorError
from infra.errors import InfraError
from stages.base.errors import StageError


class PipelineError(Exception):
    """Root of the errors of running."""


class ConfigError(PipelineError):
    """The configuration is not one; the message says which key, and what is wanted there."""


class RunError(PipelineError):
    """A run cannot go on; the message says at which stage, and what to do."""


class ClusterLostError(RunError):
    """The Ray cluster that a run worked on no longer answers."""


class CommandError(PipelineError):
    """A command cannot do what it was asked to; the message says why, and what to do."""


USER_ERRORS = (InfraError, GeneratorError, StageError, PipelineError)
"""What the command line prints as one message, without a traceback."""
