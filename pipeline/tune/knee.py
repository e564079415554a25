"""The knee of a trade-off: the point after which giving up more of one thing gains little of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_BEND = 0.05
"""Minimum height of a knee above the chord, in units of the whole trade-off; a straight line has no knee."""


def knee(kept: Sequence[float], gained: Sequence[float], flat: float = 0.0) -> int | None:
    """Return the number of the point that lies farthest above the chord between first and last; None without a knee.

    Both axes are normalised to [0, 1] between these two points, as in Kneedle (Satopää et al. 2011, "Finding a
    'Kneedle' in a Haystack", without its smoothing), so the knee depends on where the curve begins and ends: it shows
    where this curve bends most, and not what a user needs.

    Args:
        kept: what decreases along the curve, such as the editable area; any order, the same as that of `gained`.
        gained: what increases, such as PSNR; high is good.
        flat: a gain over the whole curve up to this counts as nothing.

    There is no knee among fewer than three points, if nothing is gained, or if no point is `LEAST_BEND` above
    the chord.
    """
    order = sorted(range(len(kept)), key=lambda i: (kept[i], -gained[i]))
    if len(order) < 3 or not all(map(math.isfinite, (*kept, *gained))):
        return None
    first, last = order[0], order[-1]
    width, height = kept[last] - kept[first], gained[first] - gained[last]
    if width <= 0 or height <= flat:
        return None

    def above(i: int) -> float:
        return (kept[i] - kept[first]) / width + (gained[i] - gained[last]) / height - 1

    best = max(order, key=above)
    return best if above(best) >= LEAST_BEND else None
