"""Numbers as people read them in the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ABSENT = "–"


def decimal(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Return a number for people; a dash where there is none."""
    if value is None or math.isnan(value):
        return ABSENT
    number = f"{value:,.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"
    return f"{number} {unit}".rstrip()


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference for people, with its sign."""
    return ABSENT if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share for people."""
    return ABSENT if value is None else decimal(100 * value, digits, "%")


def count(value: int) -> str:
    """Return a count for people."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Return a time for people, in its two largest units."""
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
