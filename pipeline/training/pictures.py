"""The picture of a training, as one PNG: a few held-out images with their true and their predicted error maps.

It is drawn in the training's own process, which has no plotting library loaded and should not wait for one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.train_segmenter import Predicted

MAX_TILE_PX, MIN_TILE_PX = 192, 96
_GAP_PX, _TEXT_PX = 6, 14
_PAPER, _INK = (0, 0, 0, 0), (122, 129, 138, 255)  # transparent, and a grey that is legible on white and on black
_MAGMA = np.frombuffer(
    bytes.fromhex("000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf"), np.uint8
).reshape(-1, 3)
"""Matplotlib's colour map at nine levels, the one that reports use for errors."""


def draw_predictions(examples: Sequence[Predicted], spaces: Sequence[str]) -> bytes:
    """Return a PNG: for each example the image next to its maps, a column per space, the true above the predicted one.

    Columns have a scale of their own, dark at 0, brightest at the value printed above them, which nearly all errors
    lie below.
    """
    width, height = _tile_px(examples)
    column, line = width + _GAP_PX, height + _GAP_PX
    block = 2 * line + _TEXT_PX
    sheet = Image.new(
        "RGBA", (_GAP_PX + column * (1 + len(spaces)), _TEXT_PX + _GAP_PX + block * len(examples)), _PAPER
    )
    ink = ImageDraw.Draw(sheet)
    for i, space in enumerate(spaces):
        maps = [maps_LHW[i].ravel() for one in examples for maps_LHW in (one.true_LHW, one.predicted_LHW)]
        ceiling = max(float(np.percentile(np.concatenate(maps).astype(np.float64), 99)), 1e-6) if maps else 1.0
        left = _GAP_PX + column * (1 + i)
        ink.text((left, 2), f"{space}  0 to {ceiling:.2g}", _INK)
        for number, one in enumerate(examples):
            top = _TEXT_PX + _GAP_PX + block * number + _TEXT_PX
            for row, error_HW in enumerate((one.true_LHW[i], one.predicted_LHW[i])):
                sheet.paste(_coloured(error_HW, ceiling).resize((width, height)), (left, top + line * row))
    for number, one in enumerate(examples):
        top = _TEXT_PX + _GAP_PX + block * number
        ink.text((_GAP_PX, top), one.key.encode("ascii", "replace").decode(), _INK)
        sheet.paste(Image.fromarray(one.image_HW3).resize((width, height)), (_GAP_PX, top + _TEXT_PX))
        ink.text((_GAP_PX, top + _TEXT_PX + line), "right: error,\nbelow it as predicted", _INK)
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def _tile_px(examples: Sequence[Predicted]) -> tuple[int, int]:
    """Return width and height of each image in the sheet."""
    height, width = examples[0].image_HW3.shape[:2] if examples else (1, 1)
    scale = min(max(1.0, MIN_TILE_PX / max(height, width)), MAX_TILE_PX / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _coloured(error_HW: NDArray[np.floating], ceiling: float) -> Image.Image:
    level_HW = np.clip(error_HW.astype(np.float64) / ceiling, 0, 1) * (len(_MAGMA) - 1)
    channels = [np.interp(level_HW, np.arange(len(_MAGMA)), _MAGMA[:, c]) for c in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))
