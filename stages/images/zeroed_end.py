"""Pictures whose files end in zeros, as after an interrupted download: which of them lack pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

ZEROS_FOR_PIXELS = "image file is truncated, with zeros in place of its end"
LEAST = 64
"""Number of zeros at the end of a file that are worth a check; data of lossy pixels has fewer."""

_TAKING_ZEROS = ("WEBP", "AVIF")  # other decoders refuse them, or zeros are black; for JPEG see `unended_jpeg`
_LOSSLESS = b"VP8L"  # of WebP, where zeros may be an even area
_FILLER = b"\xaa\x35"


def lacks_pixels(image: Image.Image, data: bytes) -> bool:
    """Return whether pixels of a loaded picture come from zeros at the end of its file, by changing these zeros."""
    if image.format not in _TAKING_ZEROS or not data.endswith(bytes(LEAST)) or _LOSSLESS in data:
        return False
    bare = data.rstrip(b"\0")
    filler = (_FILLER * (len(data) - len(bare)))[: len(data) - len(bare)]
    try:
        with Image.open(io.BytesIO(bare + filler), formats=[image.format]) as other:
            return not np.array_equal(np.asarray(image), np.asarray(other))
    except MemoryError:
        raise
    except Exception:  # decoders raise any kind
        return True
