"""The demo's edits: what each direction moves in the renderer, and so what the edited scene truly looks like."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.demo.occluders import Occluded
from pipeline.demo.scenes import Scene, draw_scenes

DIRECTIONS = Path(__file__).parent / "assets/directions.safetensors"


@dataclass(frozen=True)
class DemoEdit:
    """A direction of the demo's generator and the parameter of the renderer that it moves.

    At magnitude 1 the direction moves the parameter of the generator's own samples by one standard deviation, on
    average; `fit_directions` scales it so.
    """

    parameter: str
    way: str  # how the direction is found: "ganspace" or "labels"
    layers: tuple[int, int]  # first and last row of w_plus that it changes


EDITS: Mapping[str, DemoEdit] = {
    "car-position": DemoEdit("car_x", "ganspace", (0, 4)),
    "car-size": DemoEdit("car_size", "labels", (0, 4)),
    "car-colour": DemoEdit("car_hue", "labels", (0, 6)),
}
"""The demo's edits by the name of their direction."""

TRUE_MAGNITUDES = (-1.0, 1.0)
"""Magnitudes at which held-out scenes come with their true edits."""


def true_edits(z: Tensor, occluded: Occluded) -> bytes:
    """Return the true edits of one scene as an npz: `NAME.MAGNITUDE`, `[H, W, 3]` uint8.

    The renderer draws the scene again with the parameter moved; the occluder stays where it is.

    Args:
        z: `[32]`.
        occluded: the scene of z with its occluder.
    """
    side, arrays = occluded.mask.shape[0], dict[str, NDArray[np.uint8]]()
    for name, edit in EDITS.items():
        for magnitude in TRUE_MAGNITUDES:
            drawn_HW3 = pixels(draw_scenes(z[None], side, {edit.parameter: magnitude}))[0]
            arrays[f"{name}.{magnitude:g}"] = np.where(occluded.mask[..., None], occluded.image, drawn_HW3)
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]  # its keyword arguments are arrays
    return sink.getvalue()


def pixels(scene: Scene) -> NDArray[np.uint8]:
    """Return the images of scenes, `[N, H, W, 3]` uint8."""
    levels: Tensor = ((scene.image.clamp(-1, 1) + 1) * 127.5).round()
    return np.asarray(levels.to(torch.uint8).permute(0, 2, 3, 1).numpy())
