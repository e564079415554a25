"""The contract of an export: it writes what is published to a file or folder, in the format of another tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.export.published import PublishedCodes


@dataclass(frozen=True)
class Format:
    """One format of exports."""

    target: str
    """The default name of its file or folder."""
    write: Callable[[PublishedCodes, Path], str]
    """Writes the codes to a target that does not exist yet; returns what was written, in words."""
    about: str
    """What reads it, for the help."""
    whole: bool = False
    """Whether it has everything that an image is rendered from, not w_plus alone."""
