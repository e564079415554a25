"""The cost of editability in fidelity, as figures: a point per threshold, and the knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from pipeline.tune.knee import knee
from stages.maps.spaces import column

FLAT_DB = 0.1
"""A curve whose ends are closer than this has no knee."""


@dataclass(frozen=True)
class Point:
    """The results of a threshold: shares of pixels by space, PSNR in dB and perceptual error; means over samples."""

    threshold: float
    shares: dict[str, float]
    psnr_db: float
    lpips: float

    @property
    def editable(self) -> float:
        """The editable area: the share of pixels in the first space."""
        return next(iter(self.shares.values()))


@dataclass(frozen=True)
class TradeOffCurve:
    """Fidelity against editable area; points by ascending threshold.

    `knee` is the threshold of one of the points, None if the curve has none (`pipeline.tune.knee`, on PSNR).
    `configured` holds the run's own results for the same samples at its threshold, each inverted from the start; None
    if there are none.
    """

    samples: int
    held_out: int  # of the samples
    quarantined: int  # additional samples, which could not be inverted
    perceptual: str
    equal_starts: bool  # of all points; otherwise each starts from the codes of the next larger threshold
    points: tuple[Point, ...]
    knee: float | None
    configured: Point | None

    @classmethod
    def from_rows(
        cls, rows: Sequence[Mapping[str, Any]], spaces: Sequence[str], configured: Point | None, quarantined: int = 0
    ) -> TradeOffCurve:
        """Return the curve of some samples, at least one, given by the records of the stage `trade_off`."""
        psnr_T, lpips_T, share_TL = (np.mean([r[name] for r in rows], axis=0) for name in ("psnr_db", "lpips", "share"))
        thresholds_T = rows[0]["threshold"]
        points = [
            Point(float(thresholds_T[i]), dict(zip(spaces, share_TL[i].tolist(), strict=True)), psnr_db, lpips)
            for i, (psnr_db, lpips) in enumerate(zip(psnr_T.tolist(), lpips_T.tolist(), strict=True))
        ]
        points.sort(key=lambda point: point.threshold)
        bend = knee([point.editable for point in points], [point.psnr_db for point in points], FLAT_DB)
        return cls(
            samples=len(rows),
            held_out=sum(row["role"] == "held_out" for row in rows),
            quarantined=quarantined,
            perceptual=rows[0]["perceptual"],
            equal_starts=bool(rows[0]["equal_starts"]),
            points=tuple(points),
            knee=None if bend is None else points[bend].threshold,
            configured=configured,
        )

    @property
    def suggestion(self) -> str:
        """The threshold that the curve suggests, in words."""
        if self.knee is None:
            return "no knee: the curve is flat, bends nowhere, or has fewer than 3 points"
        where = "PSNR is farthest above the straight line between the ends of the curve"
        biased = "" if self.equal_starts else "; of warm starts, which may move it"
        return f"knee: refine_maps.threshold={self.knee:g}, where {where}{biased}"

    @property
    def starts(self) -> str:
        """Where the inversions of the points start, in words."""
        if self.equal_starts:
            return "every threshold is inverted from the same start, in the same steps"
        return "warm starts: each threshold continues from the codes of the next larger one"

    def as_json(self) -> dict[str, Any]:
        """Return the curve as plain values."""
        return asdict(self)


def point_of(threshold: float, rows: Sequence[Mapping[str, Any]], spaces: Sequence[str]) -> Point:
    """Return the results of one threshold, from the records of the stage `invert` for some samples."""

    def mean(name: str) -> float:
        return fmean(row[name] for row in rows)

    shares = {space: mean(f"share_{column(space)}") for space in spaces}
    return Point(threshold, shares, mean("psnr_db"), mean("lpips"))
