"""Colours as decoders give them, made 8-bit sRGB without transparency."""

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
"""A profile that moves no colour by more (of 255) is sRGB: its pictures keep their pixels."""

SPACE_OF = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""The colour space that a profile has to have, by the mode of the picture that carries it."""

WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
PHOTOMETRIC = 262

_log = logging.getLogger(__name__)


def eight_bit_rgb(image: Image.Image, depth: int, ground: tuple[int, int, int], *, profiles: bool) -> Image.Image:
    """Return a loaded picture in mode RGB: deep grey by its high byte, transparency on the ground, profiles applied.

    Args:
        image: in any mode that Pillow decodes to.
        depth: bits of a channel in the file.
        ground: what shows where the picture is transparent; the colours hidden there decide nothing.
        profiles: whether values are colours, which an ICC profile converts to sRGB.

    Raises:
        ValueError: black and white of its pixels are not known, as of floating-point ones.
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
    """Return the colours, in mode L, RGB or CMYK, and how opaque they are, None where all is."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, depth)
    if image.mode in ("L", "1", "RGB") and "transparency" in image.info:
        colours = image if image.mode == "RGB" else image.convert("L")
        return colours, _opaque(np.asarray(colours), _key(image, depth))
    if image.mode == "P" and image.palette is None:
        raise ValueError("its pixels are numbers of a palette that it lacks")
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
    """Return grey of more than 8 bits by its high byte: 257 v becomes v."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM") or not 8 <= depth <= 16:
        kind = "floating-point" if image.mode == "F" else f"{depth}-bit"
        raise ValueError(f"its pixels are {kind} numbers, of which black and white are not known; use 8 or 16 bits")
    values_HW = np.asarray(image).astype(np.uint16)
    grey_HW = (values_HW >> (depth - 8)).clip(0, 255).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        grey_HW = 255 - grey_HW
    key = image.info.get("transparency")
    return Image.fromarray(grey_HW), None if key is None else _opaque(values_HW, key)


def _key(image: Image.Image, depth: int) -> int | tuple[int, ...]:
    """Return the colour that stands for transparent, as Pillow gives that colour's pixels."""
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
    """Return colours as RGB: by a profile if it is for their channels, else as Pillow does without one."""
    transform = _transform(profile, colours.mode) if profile else None
    if transform is not None:
        converted = transform.apply(colours)
        assert converted.mode == "RGB"
        return converted
    return colours if colours.mode == "RGB" else colours.convert("RGB")


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts a mode from a profile's colour space to sRGB; None where that changes nothing or cannot be.

    The intent is perceptual, as in browsers. What cannot be used is said once, and left out, as they do.
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
        _log.warning("ICC profiles of some pictures are damaged: their colours are taken as sRGB")
        return None
    return transform if abs(change).max() > IDENTICAL else None


def _samples(mode: str) -> Image.Image:
    """Return a picture of colours from all over a mode."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = len(Image.new(mode, (1, 1)).getbands())
    grid = np.array(list(itertools.product((0, 32, 64, 128, 192, 255), repeat=channels)), np.uint8)
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())
