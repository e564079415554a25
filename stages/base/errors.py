"""The errors of the stages: what is quarantined, and what stops the run."""


class StageError(Exception):
    """Root of every error that a stage raises on purpose."""


class BadSampleError(StageError):
    """This sample cannot be processed: it is quarantined with ``str(error)`` as its reason."""


class SettingError(StageError):
    """A setting does not suit the generator or the other settings: the run stops."""


class WeightsError(StageError):
    """The weights of a network are missing or wrong: the run stops."""
