"""The report's drawings: assignments and error maps as images, and the trade-off curve (thesis Fig. 1.1, 3.2).

Also, for each space, the calibration of its invertibility maps.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE_PX = 384
"""Side to which larger pictures are reduced, so that a page of many opens quickly."""

LOSSLESS_SIDE_PX = 128
"""Side up to which WebP's half resolution of colour would show."""

LOSSLESS = {"lossless": True, "quality": 75, "method": 2}
"""Effort on small pictures: 3 % more bytes than with the most, in a sixth of the time."""

LABEL_CHARACTERS = 26  # that fit next to the axis of a curve

_COLOURS = {
    "W+": "#0072b2",
    "Z+": "#0072b2",
    "F2": "#56b4e9",
    "F4": "#009e73",
    "F6": "#f0e442",
    "F8": "#e69f00",
    "F10": "#d55e00",
}  # Okabe and Ito's, distinguishable for colour-blind readers; blue is most editable, red most faithful
_OTHER_COLOUR = "#cc79a7"

_OVERLAY = 0.6  # of the colour; the rest is the picture in grey, so that colours mean spaces only
_MAP = "magma"
_GOLDEN_RATIO = 0.6180339887498949

# Stand-ins for the page's own colours, which follow light and dark; see `_themed`.
INK, MUTED, _RULE, _PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_THEME = {INK: "currentColor", MUTED: "var(--muted)", _RULE: "var(--rule)", _PAPER: "var(--paper)"}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the same figures make the same page


@dataclass(frozen=True)
class Drawing:
    """An image of the page, embedded in its address."""

    uri: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Curve:
    """A figure of every space, from most editable to least, and that of the SAM inversion; None if unknown."""

    label: str
    values: Mapping[str, float | None]
    sam: float | None
    digits: int
    high_is_good: bool


@dataclass(frozen=True)
class Panel:
    """Fidelity against editable area: points (area in [0, 1], value, name of the threshold), by area.

    `knee` is the number of a point, `sam` the point of the SAM inversion; None if there is none.
    """

    label: str
    points: Sequence[tuple[float, float, str]]
    knee: int | None
    sam: tuple[float, float, str] | None
    high_is_good: bool


def space_colour(space: str) -> str:
    """Return the colour of a space, `#rrggbb`: the same in every report."""
    return _COLOURS.get(space, _OTHER_COLOUR)


def draw_image(image_HW3: NDArray[np.uint8]) -> Drawing:
    """Return an image, reduced if it is large."""
    return _drawing(_reduced(Image.fromarray(image_HW3), Image.Resampling.LANCZOS))


def draw_compact(image_HW3: NDArray[np.uint8]) -> Drawing:
    """Return an image, reduced if it is large, as WebP, for pages of many images; small ones without loss."""
    image = _reduced(Image.fromarray(image_HW3), Image.Resampling.LANCZOS)
    return _drawing(image, "webp", **(LOSSLESS if max(image.size) <= LOSSLESS_SIDE_PX else {"quality": 90}))


def draw_error(error_HW: NDArray[np.float32], ceiling: float) -> Drawing:
    """Return an error map in colours, dark where the error is low; `ceiling` and all above it are brightest."""
    return _drawing(error_picture(error_HW, ceiling))


def error_picture(error_HW: NDArray[np.float32], ceiling: float) -> Image.Image:
    """Return the picture of `draw_error`, with a palette."""
    reduced_HW = np.asarray(_reduced(Image.fromarray(error_HW.astype(np.float32)), Image.Resampling.BOX))
    index_HW = np.rint(np.clip(reduced_HW / ceiling, 0.0, 1.0) * 255).astype(np.uint8)
    image = Image.fromarray(index_HW)
    image.putpalette(_map_colours(256).tobytes())
    return image


def draw_assignment(assignment_HW: NDArray[np.uint8], image_HW3: NDArray[np.uint8], spaces: Sequence[str]) -> Drawing:
    """Return an assignment in the colours of its spaces, blended over the image in grey."""
    return _drawing(assignment_picture(assignment_HW, image_HW3, spaces))


def assignment_picture(
    assignment_HW: NDArray[np.uint8], image_HW3: NDArray[np.uint8], spaces: Sequence[str]
) -> Image.Image:
    """Return the picture of `draw_assignment`."""
    picture = _reduced(Image.fromarray(image_HW3), Image.Resampling.LANCZOS)
    grey_HW1 = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    index_HW = np.asarray(_reduced(Image.fromarray(assignment_HW), Image.Resampling.NEAREST))
    colours_L3 = np.array([list(bytes.fromhex(space_colour(space)[1:])) for space in spaces])
    blended_HW3 = (1 - _OVERLAY) * grey_HW1 + _OVERLAY * colours_L3[index_HW]
    return Image.fromarray(np.rint(blended_HW3).astype(np.uint8))


def draw_segments(labels_HW: NDArray[np.integer], image_HW3: NDArray[np.uint8]) -> Drawing:
    """Return a segmentation: each segment in its own colour, blended over the image in grey.

    Equal labels have equal colours in every picture of a run, so that classes can be recognised.
    """
    picture = _reduced(Image.fromarray(image_HW3), Image.Resampling.LANCZOS)
    grey_HW1 = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    labels = Image.fromarray(labels_HW.astype(np.int32))
    label_HW = np.asarray(labels.resize(picture.size, Image.Resampling.NEAREST)).astype(np.int64)
    hue_HW = (label_HW * _GOLDEN_RATIO) % 1.0  # neighbours in number lie far apart on the circle of hues
    colours_HW3 = 255 * hsv_to_rgb(np.stack([hue_HW, np.full_like(hue_HW, 0.65), np.full_like(hue_HW, 0.95)], axis=-1))
    blended_HW3 = (1 - _OVERLAY) * grey_HW1 + _OVERLAY * colours_HW3
    return _drawing(Image.fromarray(np.rint(blended_HW3).astype(np.uint8)))


def error_ceiling(maps: Iterable[NDArray[np.float32]]) -> float:
    """Return the end of the common colour scale: nearly all errors lie below it; two significant digits, positive.

    The largest hundredth of the errors is clipped, so that one bright spot does not darken every map.
    """
    values = np.concatenate([error_HW.ravel() for error_HW in maps] or [np.zeros(1, np.float32)])
    high = float(np.percentile(values, 99))
    if high <= 0:
        high = float(values.max())
    if high <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(high)) - 1)
    return float(f"{math.ceil(high / unit * (1 - 1e-6)) * unit:.2g}")


def colour_scale() -> str:
    """Return the colours of error maps as a CSS gradient, from low to high."""
    return f"linear-gradient(to right, {', '.join('#' + bytes(colour).hex() for colour in _map_colours(16))})"


def mean_position(spaces: Sequence[str], shares: Mapping[str, float | None]) -> float | None:
    """Return the place of the SAM inversion among the spaces: the mean index of its pixels, 0 is all most editable."""
    weights = [shares.get(space) or 0.0 for space in spaces]
    total = sum(weights)
    return sum(i * weight for i, weight in enumerate(weights)) / total if total > 0 else None


def draw_curve(curve: Curve, spaces: Sequence[str], position: float | None) -> str:
    """Return one panel of the trade-off curve (thesis Fig. 3.2) as an `<svg>` that takes the page's colours.

    Args:
        curve: the figures; those that are not finite are omitted.
        spaces: most editable first, left to right.
        position: the place of the SAM point, in `[0, len(spaces) - 1]`; None leaves it out.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.label, "font.size": 9.5}):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.add_subplot()
        known = [(i, v) for i, v in enumerate(map(curve.values.get, spaces)) if v is not None and math.isfinite(v)]
        axes.plot(*zip(*known, strict=True) if known else ([], []), color=MUTED, linewidth=1.2, zorder=1)
        for i, value in known:
            axes.scatter(i, value, s=46, color=space_colour(spaces[i]), edgecolors=INK, linewidths=0.8, zorder=2)
            _annotate(axes, f"{value:.{curve.digits}f}", (i, value), above=not curve.high_is_good)
        if position is not None and curve.sam is not None and math.isfinite(curve.sam):
            axes.scatter(position, curve.sam, s=80, marker="D", color=INK, edgecolors=_PAPER, linewidths=0.8, zorder=3)
            _annotate(axes, f"SAM {curve.sam:.{curve.digits}f}", (position, curve.sam), above=curve.high_is_good)
        axes.set_xticks(range(len(spaces)), spaces)
        axes.set_xlim(-0.4, len(spaces) - 0.6)
        axes.margins(y=0.2)
        axes.set_xlabel("most editable  →  most faithful", color=MUTED)
        axes.set_ylabel(textwrap.fill(curve.label, LABEL_CHARACTERS, break_on_hyphens=False), color=INK)
        return finished(figure, axes, grid="y")


def draw_trade_off(panel: Panel, space: str) -> str:
    """Return fidelity against editable area as an `<svg>` that takes the page's colours; most editable is left.

    Args:
        panel: the figures.
        space: the most editable one, whose share of pixels is the area; gives the colour.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"trade-off {panel.label}", "font.size": 9.5}):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.add_subplot()
        area, values = [100 * x for x, _, _ in panel.points], [y for _, y, _ in panel.points]
        axes.plot(area, values, color=MUTED, linewidth=1.2, zorder=1)
        axes.scatter(area, values, s=30, color=space_colour(space), edgecolors=INK, linewidths=0.8, zorder=2)
        free = 1 if panel.high_is_good else -1  # the free side of the curve
        if panel.knee is not None:
            x, y, name = panel.points[panel.knee]
            axes.scatter(100 * x, y, s=130, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=3)
            _annotate_beside(axes, f"knee, τ {name}", (100 * x, y), (-11, 7 * free))
        if panel.sam is not None:
            x, y, name = panel.sam
            axes.scatter(100 * x, y, s=64, marker="D", color=INK, edgecolors=_PAPER, linewidths=0.8, zorder=4)
            _annotate_beside(axes, f"SAM, τ {name}", (100 * x, y), (8, -7 * free))
        axes.set_xlim(104, -4)
        axes.margins(y=0.2)
        axes.set_xlabel(f"% of pixels in {space}: most editable  →  most faithful", color=MUTED)
        axes.set_ylabel(textwrap.fill(panel.label, LABEL_CHARACTERS, break_on_hyphens=False), color=INK)
        return finished(figure, axes, grid="y")


def draw_calibration(space: str, points: Sequence[tuple[float, float, int]]) -> str:
    """Return the calibration of a space's maps as an `<svg>` that takes the page's colours.

    Args:
        space: gives the colour.
        points: mean predicted error, mean achieved error, and how many segments; ascending. The dashed line is where
            both are equal: above it, the inversion was worse than predicted.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"calibration {space}", "font.size": 9.5}):
        figure = Figure(figsize=(2.5, 2.5))
        axes = figure.add_axes((0.25, 0.2, 0.73, 0.7))
        predicted, achieved = [p for p, _, _ in points], [a for _, a, _ in points]
        end = 1.08 * max([*predicted, *achieved, 1e-6])
        axes.plot((0, end), (0, end), color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        axes.plot(predicted, achieved, color=MUTED, linewidth=1.2, zorder=2)
        axes.scatter(predicted, achieved, s=38, color=space_colour(space), edgecolors=INK, linewidths=0.8, zorder=3)
        axes.set_xscale("function", functions=(_root, np.square))
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set(xlim=(0, end), ylim=(0, end))
        unit = 10.0 ** math.floor(math.log10(end))
        last = unit * max((n for n in (1, 2, 4, 6, 8) if n * unit <= end), default=1)
        ticks = (0, last / 4, last)  # evenly spaced
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_title(space, color=INK, fontsize=10, loc="left")
        axes.set_xlabel("predicted error", color=MUTED)
        axes.set_ylabel("achieved error", color=INK)
        return finished(figure, axes, grid="both")


def _root(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scale of errors: most are small, a few are large."""
    return np.sqrt(np.maximum(value, 0.0))


def finished(figure: Figure, axes: Axes, grid: Literal["y", "both"]) -> str:
    """Return a panel in the common style."""
    axes.tick_params(color=_RULE, labelcolor=INK, length=3)
    axes.grid(visible=True, axis=grid, color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return _themed(buffer.getvalue())


def _annotate(axes: Axes, text: str, point: tuple[float, float], *, above: bool) -> None:
    """Write next to a point, on the free side of the curve."""
    axes.annotate(
        text,
        point,
        xytext=(0, 8 if above else -8),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        color=INK,
    )


def _annotate_beside(axes: Axes, text: str, point: tuple[float, float], offset: tuple[int, int]) -> None:
    """Write to the left or right of a point, at a distance that avoids overlap."""
    side = "left" if offset[0] > 0 else "right"
    axes.annotate(text, point, xytext=offset, textcoords="offset points", ha=side, va="center", color=INK)


def _themed(svg: str) -> str:
    """Return the `<svg>` element alone, sized by the page, its stand-in colours replaced by the page's."""
    svg = svg[svg.index("<svg ") :]
    opening, rest = svg.split(">", 1)
    kept = [part for part in opening.split('" ') if not part.startswith(("width=", "height="))]
    svg = '" '.join(kept) + ' aria-hidden="true">' + rest
    for stand_in, colour in _THEME.items():
        svg = svg.replace(stand_in, colour)
    return svg


def _map_colours(count: int) -> NDArray[np.uint8]:
    colours_N4 = np.asarray(mpl.colormaps[_MAP](np.linspace(0, 1, count)), dtype=np.float64)
    return np.rint(colours_N4[:, :3] * 255).astype(np.uint8)


def _reduced(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    scale = MAX_SIDE_PX / max(image.size)
    if scale >= 1:
        return image
    width, height = image.size
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), resample)


def _drawing(image: Image.Image, kind: str = "png", **options: int) -> Drawing:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    uri = f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Drawing(uri, *image.size)
