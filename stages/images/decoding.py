"""The one decoder of pictures, masks and labels: format recognised by content, upright, 8-bit sRGB.

Whatever a decoder raises affects only its picture, in the same words in every run. No format that is read here can
start another program.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from stages.base.errors import BadSampleError
from stages.base.faults import described
from stages.images.colours import BLACK, WHITE, eight_bit_rgb
from stages.images.orientation import Geometry, upright
from stages.images.unended_jpeg import ended, ends_early, may_end_early, may_lack_pixels
from stages.images.zeroed_end import ZEROS_FOR_PIXELS, lacks_pixels

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""Formats that are decoded, whatever the member's name; Pillow would also pass PostScript to Ghostscript."""

MOST_PIXELS = 178_956_970
"""Of one picture; about half a gigabyte decoded."""

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""Pillow's own limit, 1 MiB, refuses pictures because of texts that editors write; this limits all texts together."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # it warns about harmless defects, once per picture


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: `pixels_HW3` uint8 sRGB, upright, and the EXIF orientation of the stored pixels."""

    pixels_HW3: NDArray[np.uint8]
    orientation: int = 1

    @property
    def geometry(self) -> Geometry:
        """Size and orientation."""
        height, width = self.pixels_HW3.shape[:2]
        return Geometry(height, width, self.orientation)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A picture with its pixels, its EXIF orientation (None without one), and the rotation still to apply."""

    image: Image.Image
    depth: int
    tag: int | None
    turn: int


def decode_picture(data: bytes, name: str) -> Picture:
    """Return an encoded picture; the first frame of an animated one. Transparent pixels are white.

    Raises:
        BadSampleError: the bytes are not a picture of a readable format, are damaged, or stop before the last pixel;
            the message gives `name`.
    """
    with _loaded(data, name) as loaded:
        pixels_HW3 = np.asarray(eight_bit_rgb(loaded.image, loaded.depth, WHITE, profiles=True))
        return Picture(upright(pixels_HW3, loaded.turn), loaded.tag or 1)


def decode_mask(data: bytes, name: str) -> tuple[NDArray[np.uint8], int | None]:
    """Return a mask, `[H, W]` of 0 to 255, and its own stored orientation, None without one.

    Its values are not colours: profiles do not apply, transparent pixels are 0, and of colours the red counts.

    Raises:
        BadSampleError: as `decode_picture` does.
    """
    with _loaded(data, name) as loaded:
        rgb_HW3 = np.asarray(eight_bit_rgb(loaded.image, loaded.depth, BLACK, profiles=False))
        return rgb_HW3[..., 0], None if loaded.tag is None else loaded.turn


def decode_values(data: bytes, name: str) -> tuple[NDArray[np.generic], int | None]:
    """Return the values of a PNG, `[H, W]` or more, and its stored orientation, None without one.

    Grey levels keep their value at every depth, colours of a palette are their indices.

    Raises:
        BadSampleError: the bytes are not a PNG, are damaged, or stop before the last pixel.
    """
    with _loaded(data, name, ("PNG",)) as loaded:
        values = np.asarray(loaded.image)
        if loaded.image.mode == "L" and loaded.depth < 8:  # Pillow scales them to 0 to 255
            values = values // np.uint8(255 // (2**loaded.depth - 1))
        return values, loaded.tag


def picture_geometry(data: bytes, name: str) -> Geometry:
    """Return the geometry that `decode_picture` would return; raise BadSampleError as it does, except for pixels."""
    with _opened(data, name, FORMATS) as image:
        width, height = image.size
        orientation = _tag(image) or 1
        swapped = orientation >= 5 and image.format != "TIFF"  # Pillow gives its size upright
        return Geometry(*((width, height) if swapped else (height, width)), orientation)


@contextmanager
def _loaded(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Iterator[_Loaded]:
    """Yield a picture with its pixels."""
    with _opened(data, name, formats) as image:
        if image.format == "TIFF":
            tag = _tag(image)  # read now: Pillow turns a TIFF upright and removes the tag
            image.load()
            yield _Loaded(image, _depth(image, data), tag, 1)
            return
        if image.format in ("JPEG", "MPO"):
            jpeg = _loaded_jpeg(image, data)
            yield _Loaded(jpeg, 8, *_turning(jpeg))
            return
        image.load()
        if lacks_pixels(image, data):
            raise OSError(ZEROS_FOR_PIXELS)
        yield _Loaded(image, _depth(image, data), *_turning(image))


def _loaded_jpeg(image: Image.Image, data: bytes) -> Image.Image:
    """Return a JPEG with its pixels, even if only its end marker is missing; raise OSError if it lacks pixels."""
    try:
        image.load()
    except OSError:
        whole = ended(data)
        if whole is None:
            raise
    else:
        if not may_lack_pixels(data):
            if may_end_early(image) and ends_early(data):
                raise OSError("image file is truncated, with an end marker before its last pixel")
            return image
        whole = ended(data)
        if whole is None:
            raise OSError(ZEROS_FOR_PIXELS)
    again = Image.open(io.BytesIO(whole), formats=["JPEG"])
    again.load()
    return again


@contextmanager
def _opened(data: bytes, name: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Yield a picture whose header was read; attribute errors meanwhile to the picture."""
    if not data:
        raise BadSampleError(f"{name} is empty; replace it in the shard")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _refuse_sizes(*image.size)
            yield image
    except UnidentifiedImageError as error:
        raise BadSampleError(
            f"{name} does not decode ({len(data)} bytes): it begins with {data[:12]!r}, not with a complete header of "
            f"{', '.join(formats)}; replace it in the shard"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any kind: RuntimeError, AssertionError, NotImplementedError, ...
        raise BadSampleError(
            f"{name} does not decode ({len(data)} bytes): {described(error)}; replace it in the shard"
        ) from error


def _refuse_sizes(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"it is {height} x {width} px, over the limit of {MOST_PIXELS} pixels")
    if width * height == 0:
        raise ValueError(f"it is {height} x {width} px, and has no pixels")


def _tag(image: Image.Image) -> int | None:
    """Return a picture's EXIF orientation; None without one or with damaged EXIF, since the pixels are intact."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # decoders raise any kind
        return None
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else None


def _turning(image: Image.Image) -> tuple[int | None, int]:
    tag = _tag(image)
    return tag, tag or 1


def _depth(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel in the file, where they decide what a value means."""
    if image.format == "PNG":
        return data[24]  # of IHDR, which comes first
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (8,))[0])  # type: ignore[attr-defined]
    return 16 if image.mode == "I" else 8
