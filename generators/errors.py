"""The errors of generators, drawn in one place."""


class GeneratorError(Exception):
    """Root of the errors that users can meet in this package."""


class CheckpointError(GeneratorError):
    """A checkpoint is missing, truncated, of an unknown format, or holds something that is never loaded."""


class UnknownFormatError(CheckpointError):
    """A file has an unsupported format, or an unsupported kind of a supported one."""


class ArgumentError(GeneratorError, ValueError):
    """The family of the checkpoint does not offer what the caller requested."""


class DirectionError(CheckpointError):
    """A direction is missing, damaged, not finite, of an unknown name, or made for another generator."""
