"""Distinguish JPEGs that lack only their end marker from those that lack pixels; detect early end markers."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

END = b"\xff\xd9"
_FILLERS = [
    b"".join(bytes([filler]) * 64 + bytes([0xFF, 0xD0 + number % 8]) for number in range(64)) for filler in (0xAA, 0x35)
]
"""Data of other pictures, with restart markers in between: a decoder that lacks pixels reads some of it."""

_START_OF_SCAN, _RESTARTS, _PROGRESSIVE = 0xDA, range(0xD0, 0xD8), (0xC2, 0xC6, 0xCA, 0xCE)
_MIDDLE = (127, 128)
_FRAMES = (0xC0, 0xC1, *_PROGRESSIVE, 0xC9)


def may_lack_pixels(data: bytes) -> bool:
    """Return whether a JPEG ends in zeros, which a decoder would read as pixels."""
    return data.endswith(bytes(16)) and not data.rstrip(b"\0").endswith(END)


def may_end_early(image: Image.Image) -> bool:
    """Return whether a loaded JPEG ends in middle grey, which decoders give to pixels without data."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(value in _MIDDLE for value in (last if isinstance(last, tuple) else (last,)))


def ends_early(data: bytes) -> bool:
    """Return whether the end marker of a JPEG, not that of its thumbnail, comes before the data of its last pixel."""
    behind = max((stop for *_, stop in _segments(data)), default=0)
    return ended(data[: data.find(END, behind)]) is None


def ended(data: bytes) -> bytes | None:
    """Return a JPEG with its missing end marker; None if it lacks pixels too.

    Data appended to a whole picture changes none of its pixels. Zeros at its end, left by interrupted downloads,
    are not data.
    """
    bare = data.rstrip(b"\0")
    bare = (bare + data[len(bare) : len(bare) + 1]).rstrip(b"\xff")  # one zero may be data, half a marker is not
    try:
        plain_HWC = _pixels(bare + END) if _all_scans(bare) else None
    except (IndexError, ValueError):  # a header that is too short
        return None
    if plain_HWC is None:
        return None
    for filler in _FILLERS:
        filled_HWC = _pixels(bare + filler + END)
        if filled_HWC is None or not np.array_equal(plain_HWC, filled_HWC):
            return None
    return bare + END


def _pixels(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image)
    except OSError:
        return None


def _all_scans(data: bytes) -> bool:
    """Return whether every coefficient of every component was sent to its last bit; a cut may fall between scans."""
    components, progressive = 0, False
    bits: dict[tuple[int, int], int] = {}  # lowest bit sent, by component and coefficient
    for marker, body, _ in _segments(data):
        if marker in _FRAMES:
            components, progressive = body[5], marker in _PROGRESSIVE
        if marker == _START_OF_SCAN:
            count = body[0]
            first, last, shift = body[1 + 2 * count : 4 + 2 * count] if progressive else (0, 63, 0)
            bits |= {(body[1 + 2 * i], k): shift & 15 for i in range(count) for k in range(first, last + 1)}
    return components > 0 and len(bits) == 64 * components and not any(bits.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the markers of a JPEG that have a body, and where that stops; entropy-coded data is skipped."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or marker in _RESTARTS:
            at += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == END[1] or at + 2 + size > len(data):
            return
        yield marker, data[at + 4 : at + 2 + size], at + 2 + size
        at += 2 + size
