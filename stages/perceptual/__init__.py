"""LPIPS, the perceptual distance."""

from stages.perceptual.weights import load_perceptual

__all__ = ["load_perceptual"]
