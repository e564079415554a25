"""Converting decoded colours to 8-bit sRGB without transparency."""

from __future__ import annotations

import functools
import io
import itertools
import logging

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
IDENTICAL = 1
"""A profile that changes no colour by more (of 255) counts as sRGB: its pictures keep their pixels."""

SPACE_OF = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""The colour space that a profile must have, by the mode of its picture."""

WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
PHOTOMETRIC = 262

_log = logging.getLogger(__name__)


def eight_bit_rgb(image: Image.Image, depth: int, ground: tuple[int, int, int], *, profiles: bool) -> Image.Image:
    """Return a loaded picture in mode RGB: deep grey by its high byte, transparency flattened, profiles applied.

    Args:
        image: in any mode that Pillow decodes to.
        depth: bits per channel in the file.
        ground: background where the picture is transparent; hidden colours have no effect.
        profiles: whether values are colours, which an ICC profile converts to sRGB.

    Raises:
        ValueError: the values of black and white are unknown, as in floating-point pictures.
    """
    if image.mode == "RGB" and not (image.info.get("icc_profile") or "transparency" in image.info):
        return image
    colours, alpha = _without_alpha(image, depth)
    rgb = _in_srgb(colours, image.info.get("icc_profile") if profiles else None)
    if alpha is None:
        return rgb
    flat = Image.new("RGB", rgb.size, ground)
    flat.paste(rgb, mask=alpha)
    return flat


def _without_alpha(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours, in mode L, RGB or CMYK, and their opacity; None if everything is opaque."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, depth)
    if image.mode in ("L", "1", "RGB") and "transparency" in image.info:
        colours = image if image.mode == "RGB" else image.convert("L")
        return colours, _opaque(np.asarray(colours), _key(image, depth))
    if image.mode == "P" and image.palette is None:
        raise ValueError("its pixels are indices of a palette that it lacks")
    if image.mode in ("La", "LA"):
        grey, alpha = image.convert("LA").split()
        return grey, alpha
    if image.has_transparency_data:
        *_, alpha = (whole := image.convert("RGBA")).split()
        return whole.convert("RGB"), alpha
    if image.mode in SPACE_OF:
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _deep_grey(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """Return the high byte of grey with more than 8 bits: 257 v becomes v."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM") or not 8 <= depth <= 16:
        kind = "floating-point" if image.mode == "F" else f"{depth}-bit"
        raise ValueError(f"its pixels are {kind} numbers, whose black and white are unknown; use 8 or 16 bits")
    values_HW = np.asarray(image).astype(np.uint16)
    grey_HW = (values_HW >> (depth - 8)).clip(0, 255).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        grey_HW = 255 - grey_HW
    key = image.info.get("transparency")
    return Image.fromarray(grey_HW), None if key is None else _opaque(values_HW, key)


def _key(image: Image.Image, depth: int) -> int | tuple[int, ...]:
    """Return the colour that marks transparency, as Pillow gives that colour's pixels."""
    key: int | tuple[int, ...] = image.info["transparency"]
    if image.format != "PNG":
        return key
    if isinstance(key, tuple):
        return tuple(value >> (depth - 8) for value in key)
    return key if depth >= 8 else key * (255 // (2**depth - 1))


def _opaque(values: NDArray[np.generic], key: int | tuple[int, ...]) -> Image.Image:
    differs = values != np.asarray(key)
    return Image.fromarray(np.where(differs.any(axis=-1) if values.ndim == 3 else differs, 255, 0).astype(np.uint8))


def _in_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return colours as RGB: by a profile if it is for their channels, otherwise as Pillow converts them."""
    transform = _transform(profile, colours.mode) if profile else None
    if transform is not None:
        converted = transform.apply(colours)
        assert converted.mode == "RGB"
        return converted
    return colours if colours.mode == "RGB" else colours.convert("RGB")


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from a profile's colour space to sRGB; None if it changes nothing or is impossible.

    The intent is perceptual, as in browsers. Like browsers, it ignores unusable profiles, with one warning.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACE_OF[mode]:
            return None
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        samples = _samples(mode)
        change = np.asarray(transform.apply(samples)).astype(int) - np.asarray(samples.convert("RGB"))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        _log.warning("ICC profiles of some pictures are damaged: they are ignored, and their colours read as sRGB")
        return None
    return transform if abs(change).max() > IDENTICAL else None


def _samples(mode: str) -> Image.Image:
    """Return a picture of colours from the whole range of a mode."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = len(Image.new(mode, (1, 1)).getbands())
    grid = np.array(list(itertools.product((0, 32, 64, 128, 192, 255), repeat=channels)), np.uint8)
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())
