"""Pictures as files, in every format that is read and in the forms that other people's are in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

ORIENTED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF orientation: how its stored pixels are made of the upright ones."""


def pixels(seed: int, height: int = 24, width: int = 36) -> np.ndarray:
    """Return smooth colours that look different from every side, `[H, W, 3]` uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def encoded(image: np.ndarray | Image.Image, form: str, **options) -> bytes:
    """Return a picture as a file."""
    sink = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(sink, form, **options)
    return sink.getvalue()


def sideways(upright: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Return stored pixels and the EXIF tag that says how they are looked at."""
    how, image, tag = ORIENTED[orientation], Image.fromarray(upright), Image.Exif()
    tag[0x112] = orientation
    return image if how is None else image.transpose(how), tag


def raw_png(
    colour: int, depth: int, width: int, height: int, lines: bytes, before: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return a PNG of filtered lines, with chunks before its pixels, sound or not."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = [head, *(_chunk(*one) for one in before), _chunk(b"IDAT", zlib.compress(lines)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
