"""The README's first picture, from the finished demo: input, map, assignment, reconstruction and edits.

    python -m benchmarks.harness.pictures [--out docs/edits.png] [--config demo.yaml]

It reads what `make demo` published, and inverts nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness.sheet import write_sheet
from pipeline.config import load_config
from pipeline.report.charts import Drawing, draw_assignment, draw_error, error_ceiling
from pipeline.report.conclude import conclude
from pipeline.report.described import described
from pipeline.report.edited import SAM_METHOD, EditedPicture

SHOWN = (("car-position", 1.0), ("car-size", 1.5), ("car-colour", -1.0))
ROWS = 4


def main(arguments: list[str] | None = None) -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.pictures", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/edits.png"), help="file to write")
    parser.add_argument("--config", type=Path, default=Path("demo.yaml"), help="configuration of a finished run")
    options = parser.parse_args(arguments)
    conclusion = conclude(described(load_config(options.config), asked=False))
    spaces = conclusion.summary.spaces
    pictures = conclusion.edited[:ROWS]
    ceiling = error_ceiling(picture.predicted_HW for picture in pictures)
    edits = [f"{name}\n{magnitude:+g}" for name, magnitude in SHOWN]
    headings = ["input", f"predicted\nerror, {spaces[0]}", "assignment", "SAM", *edits]
    write_sheet(options.out, headings, [(picture.key, row_of(picture, spaces, ceiling)) for picture in pictures])
    print(f"wrote {options.out}, {options.out.stat().st_size} bytes")
    return 0


def row_of(picture: EditedPicture, spaces: Sequence[str], ceiling: float) -> list[NDArray[np.uint8]]:
    """Return the images of a row."""
    return [
        picture.image_HW3,
        pixels_of_drawing(draw_error(picture.predicted_HW, ceiling), picture.image_HW3.shape),
        pixels_of_drawing(draw_assignment(picture.assignment_HW, picture.image_HW3, spaces), picture.image_HW3.shape),
        picture.unedited[SAM_METHOD],
        *(_edited(picture, name, magnitude) for name, magnitude in SHOWN),
    ]


def _edited(picture: EditedPicture, direction: str, magnitude: float) -> NDArray[np.uint8]:
    edits = picture.along(direction)
    return min(edits, key=lambda edit: abs(edit.magnitude - magnitude)).by_method[SAM_METHOD]


def pixels_of_drawing(drawing: Drawing, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an image of the report at height and width of `shape`, `[H, W, 3]` uint8."""
    data = base64.b64decode(drawing.uri.partition(",")[2])
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    )


if __name__ == "__main__":
    sys.exit(main())
