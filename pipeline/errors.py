"""The errors that users can meet, drawn in one place.

    InfraError        storage, shards, bundles         (infra.errors)
    GeneratorError    checkpoints                      (generators.errors)
    StageError        samples and weights              (stages.base.errors)
    PipelineError     configuration and runs           (here)

A bad sample is quarantined, a transient fault is retried, anything else stops the run with its message.
"""

from generators.errors import GeneratorError
from infra.errors import InfraError
from stages.base.errors import StageError


class PipelineError(Exception):
    """Root of the errors of running."""


class ConfigError(PipelineError):
    """The configuration is invalid; the message gives the key, and what is expected there."""


class RunError(PipelineError):
    """A run cannot continue; the message gives the stage, and the remedy."""


class ClusterLostError(RunError):
    """The Ray cluster of the run no longer answers."""


class CommandError(PipelineError):
    """A command cannot do what was requested; the message gives the reason and the remedy."""


USER_ERRORS = (InfraError, GeneratorError, StageError, PipelineError)
"""Errors that the command line prints as one message, without a traceback."""
