"""Sheets of small images for documents: rows with names, columns with headings, pixels enlarged without blur."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, MARGIN, LINE = 2, 6, 10, 15
"""Enlargement; pixels between images, around the sheet, and of a line of text."""
INK, PAPER = (28, 31, 35), (255, 255, 255)


def write_sheet(
    path: Path, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], *, names_px: int = 0
) -> None:
    """Write images of one size as a PNG of 256 colours.

    Args:
        path: of the sheet.
        headings: of the columns; a line break makes a second line.
        rows: name and images `[H, W, 3]` of each row, as many as there are headings.
        names_px: width of the column of names; 0 leaves them out.
    """
    height, width = (SCALE * side for side in rows[0][1][0].shape[:2])
    left, top = MARGIN + names_px, MARGIN + LINE * max(heading.count("\n") + 1 for heading in headings) + GAP
    size = (left + len(headings) * (width + GAP) - GAP + MARGIN, top + len(rows) * (height + GAP) - GAP + MARGIN)
    sheet, font = Image.new("RGB", size, PAPER), ImageFont.load_default(12)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.multiline_text((left + column * (width + GAP), MARGIN), heading, INK, font)
    for line, (name, images) in enumerate(rows):
        y = top + line * (height + GAP)
        if names_px:
            draw.multiline_text((MARGIN, y), name, INK, font)
        for column, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * (width + GAP), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
