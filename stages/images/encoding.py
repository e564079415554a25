"""Images as files: PNG, JPEG and WebP."""

from __future__ import annotations

import io
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

ImageFormat = Literal["webp", "png", "jpeg"]
Quality = Annotated[int, Field(ge=1, le=100)]


def extension_of(kind: ImageFormat) -> str:
    """Return the usual extension of a format."""
    return "jpg" if kind == "jpeg" else kind


def encoded(pixels_HW3: NDArray[np.uint8], kind: ImageFormat, quality: Quality = 90) -> bytes:
    """Return an image `[H, W, 3]` RGB as a file; `quality` is of WebP and JPEG, PNG has no loss."""
    sink = io.BytesIO()
    options = {} if kind == "png" else {"quality": quality}
    Image.fromarray(pixels_HW3).save(sink, kind, **options)
    return sink.getvalue()
