"""LPIPS, the perceptual distance."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.perceptual.weights import load_perceptual

__all__ = ["load_perceptual"]


def __getattr__(name: str) -> object:
    """Import the distance when it is asked for: who only reads a configuration need not wait for lpips."""
    if name in __all__:
        from stages.perceptual import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
