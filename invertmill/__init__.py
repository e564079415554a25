"""The public API in one place; each name is imported when it is first used.

`open_bundles` reads what a run published, `load_generator`, `load_encoder` and `load_direction` read checkpoints,
`load_perceptual` is LPIPS, `assign_spaces` is the assignment of spaces to segments, and `main` is the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generators import load_direction, load_encoder, load_generator
    from pipeline.bundles.reader import open_bundles
    from pipeline.cli import main
    from stages.maps.assignment import assign_spaces
    from stages.perceptual import load_perceptual

__all__ = [
    "assign_spaces",
    "load_direction",
    "load_encoder",
    "load_generator",
    "load_perceptual",
    "main",
    "open_bundles",
]

_PLACES = {
    "assign_spaces": "stages.maps.assignment",
    "load_direction": "generators",
    "load_encoder": "generators",
    "load_generator": "generators",
    "load_perceptual": "stages.perceptual",
    "main": "pipeline.cli",
    "open_bundles": "pipeline.bundles.reader",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'invertmill' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
