"""LPIPS, the perceptual distance."""

from stages.perceptual.distance import load_perceptual

__all__ = ["load_perceptual"]
