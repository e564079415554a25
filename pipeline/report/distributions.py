"""Distributions of figures over the samples of a run, drawn for the report: PSNR, and convergence."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.charts import INK, MUTED, finished

MAX_BINS = 40
Numbers = Sequence[float] | NDArray[np.float64]
Trace = tuple[NDArray[np.generic], NDArray[np.generic]]
"""Steps `[K]` and the loss at each of them, `[K]`."""


def draw_histogram(values: Numbers, label: str) -> str | None:
    """Return a histogram as an `<svg>` that takes the page's colours, with the median marked.

    Args:
        values: one figure per sample; those that are not finite are omitted.
        label: of the horizontal axis, with its unit.

    Returns:
        None for fewer than two finite values, which have no distribution.
    """
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size < 2:
        return None
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"histogram {label}", "font.size": 9.5}):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.add_subplot()
        bins = int(np.clip(np.sqrt(finite.size), 5, MAX_BINS))
        counts, _, _ = axes.hist(finite, bins=bins, color=MUTED, alpha=0.6)
        median = float(np.median(finite))
        axes.axvline(median, color=INK, linewidth=1.2)
        axes.annotate(
            f"median {median:.2f}",
            (median, float(np.max(counts))),
            xytext=(4, 6),
            textcoords="offset points",
            va="bottom",
            color=INK,
        )
        axes.margins(y=0.15)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(label, color=MUTED)
        axes.set_ylabel("samples", color=INK)
        return finished(figure, axes, grid="y")


def draw_convergence(traces: Sequence[Trace]) -> str | None:
    """Return the loss of some inversions by step as an `<svg>` that takes the page's colours; None without inversions.

    A thin line per sample, and the median of those that were still optimised as a thick one. The loss axis is
    logarithmic: an inversion that has converged is flat at its right end.
    """
    curves = [(np.asarray(s, np.float64), np.asarray(v, np.float64)) for s, v in traces if np.size(s) > 1]
    curves = [(steps_K, loss_K) for steps_K, loss_K in curves if np.isfinite(loss_K).all() and (loss_K > 0).all()]
    if not curves:
        return None
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "convergence", "font.size": 9.5}):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for steps_K, loss_K in curves:
            axes.plot(steps_K + 1, loss_K, color=MUTED, linewidth=0.7, alpha=0.5)
        axes.plot(*_median(curves), color=INK, linewidth=1.8, label="median")
        axes.set_yscale("log")
        axes.set_xlabel("optimisation step", color=MUTED)
        axes.set_ylabel("loss", color=INK)
        axes.legend(frameon=False, labelcolor=INK)
        return finished(figure, axes, grid="y")


def _median(curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[list[float], list[float]]:
    """Return steps and the median loss of the curves that reach them; the steps are those of the longest curve."""
    longest_K = max((steps_K for steps_K, _ in curves), key=lambda steps_K: float(steps_K[-1]))
    medians = [
        float(np.median([np.interp(step, s, v) for s, v in curves if s[0] <= step <= s[-1]] or [np.nan]))
        for step in longest_K
    ]
    return (longest_K + 1).tolist(), medians
