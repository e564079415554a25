"""Everything that can go wrong with a generator, drawn in one place."""


class GeneratorError(Exception):
    """Root of the errors that a user can meet in this package."""


class CheckpointError(GeneratorError):
    """A checkpoint is missing, truncated, of an unknown format, or holds something that is never loaded."""


class UnknownFormatError(CheckpointError):
    """A file is of none of the formats that are read, or a kind of one that is not."""


class ArgumentError(GeneratorError, ValueError):
    """What the caller asked for is not offered by the family that the checkpoint holds."""


class DirectionError(CheckpointError):
    """A direction is missing, damaged, not finite, of an unknown name, or made for another generator."""
