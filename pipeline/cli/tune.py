"""The output of `invertmill tune`: shares of pixels at other thresholds, and the cost of editability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from pipeline.tune.curve import TradeOffCurve
    from pipeline.tune.shares import Tuning


def shares(found: Tuning) -> Table:
    """Return the share of pixels of each space, one row per threshold."""
    table = _table(list(found.grid[0].shares))
    for row in found.grid:
        mark = "*" if row.threshold == found.threshold else ""
        table.add_row(f"{row.threshold:g}", mark, *map(_percent, row.shares.values()))
    return table


def about_shares(found: Tuning) -> str:
    """Return the caption of those shares."""
    of = f"{found.samples:,} of {found.committed:,} samples"
    return f"share of pixels by refine_maps.threshold, over {of}; * as configured"


def curve(found: TradeOffCurve) -> Table:
    """Return fidelity and shares of pixels, one row per threshold, ascending like those of `shares`."""
    table = _table(list(found.points[0].shares), "PSNR", "error")
    rows = [(point, "knee" if point.threshold == found.knee else "") for point in found.points]
    rows += [(found.configured, "*")] if found.configured else []
    for point, mark in sorted(rows, key=lambda row: row[0].threshold):
        figures = f"{point.psnr_db:.2f} dB", f"{point.lpips:.4f}"
        table.add_row(f"{point.threshold:g}", mark, *map(_percent, point.shares.values()), *figures)
    return table


def about_curve(found: TradeOffCurve) -> str:
    """Return the caption of that curve, with the suggested threshold."""
    parts = [
        f"means over {found.samples} samples, {found.held_out} of them held out; error: {found.perceptual}",
        found.starts,
    ]
    if found.configured is not None:
        parts.append("* the run's own inversions of the same samples")
    if found.quarantined:
        parts.append(f"{found.quarantined} more could not be inverted")
    return f"{'; '.join(parts)}\n{found.suggestion}"


def _table(spaces: list[str], *more: str) -> Table:
    table = Table("threshold", "", box=None, header_style="bold")
    for column in (*spaces, *more):
        table.add_column(column, justify="right")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
