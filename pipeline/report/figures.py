"""Numbers in the report's format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ABSENT = "–"


def decimal(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Return a number as text; a dash if there is none."""
    if value is None or math.isnan(value):
        return ABSENT
    number = f"{value:,.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"
    return f"{number} {unit}".rstrip()


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference as text, with its sign."""
    return ABSENT if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def ratio(value: float | None) -> str:
    """Return a ratio as text; None is one without a limit, since nothing changes on its other side."""
    return "∞ : 1" if value is None else f"{decimal(value, 1)} : 1"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as text."""
    return ABSENT if value is None else decimal(100 * value, digits, "%")


def count(value: int) -> str:
    """Return a count as text."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Return a duration as text, in its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{count(minutes // 60)} h {minutes % 60:02d} min"


def devices(names: Sequence[str]) -> str:
    """Return the devices of a stage, each kind once with its number."""
    kinds = Counter(names)
    return ", ".join(f"{number} × {name}" if number > 1 else name for name, number in kinds.items()) or ABSENT
