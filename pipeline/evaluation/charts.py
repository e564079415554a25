"""The drawings of an evaluation: fidelity against editability (Fig. 3.2) and against seconds per image (Fig. 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.evaluation.methods import SAM, SINGLE
from pipeline.evaluation.tables import Evaluation, Line
from pipeline.report.charts import INK, MUTED, finished, space_colour

_MARKERS = {"optimisation": "o", "encoder": "s"}


@dataclass(frozen=True)
class Point:
    """One method in a drawing, with the interval of its PSNR."""

    name: str
    x: float
    psnr_db: float
    low: float
    high: float
    colour: str
    marker: str


def draw_trade_off(evaluation: Evaluation) -> str | None:
    """Return PSNR against editability of single spaces and SAM as an `<svg>`, None without edits."""
    single = _points(evaluation.single, _editability)
    known = single + _points([line for line in evaluation.lines if line.kind == SAM], _editability)
    return _drawn(known, "editability", "editability", joined=len(single)) if known else None


def draw_seconds(evaluation: Evaluation) -> str | None:
    """Return PSNR against seconds per image of all methods as an `<svg>`, None without timings."""
    known = _points(evaluation.lines, lambda line: line.seconds_per_image)
    return _drawn(known, "seconds of one worker per image", "seconds", log=True) if known else None


def _editability(line: Line) -> float | None:
    return None if line.editability is None else line.editability.value


def _points(lines: Iterable[Line], x: Callable[[Line], float | None]) -> list[Point]:
    points = (_point(line, x(line)) for line in lines)
    return [point for point in points if point is not None]


def _point(line: Line, x: float | None) -> Point | None:
    mean = line.psnr_db
    if mean is None or x is None:
        return None
    low, high = (mean.value if end is None else end for end in (mean.low, mean.high))
    colour = space_colour(line.kind.removeprefix(SINGLE)) if line.kind.startswith(SINGLE) else MUTED
    if line.kind == SAM:
        colour = INK
    return Point(line.name, x, mean.value, low, high, colour, _MARKERS[line.regime])


def _drawn(points: Sequence[Point], label: str, name: str, *, log: bool = False, joined: int = 0) -> str:
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5}):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([p.x for p in points[:joined]], [p.psnr_db for p in points[:joined]], color=MUTED, linewidth=1.0)
        for point in points:
            axes.plot((point.x, point.x), (point.low, point.high), color=MUTED, linewidth=1.0, zorder=1)
            axes.scatter(
                point.x,
                point.psnr_db,
                s=46,
                marker=point.marker,
                color=point.colour,
                edgecolors=INK,
                linewidths=0.8,
                zorder=2,
            )
            name_shown, place = point.name.replace("$", r"\$"), (point.x, point.psnr_db)
            axes.annotate(name_shown, place, xytext=(6, 3), textcoords="offset points", color=INK, fontsize=8)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.18, y=0.15)
        axes.set_xlabel(label, color=MUTED)
        axes.set_ylabel("PSNR, dB", color=INK)
        return finished(figure, axes, grid="y")
