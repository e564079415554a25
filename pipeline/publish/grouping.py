"""The units whose rows form one part of an index: decided by the units' names, so that new data moves no other part.

A part ends after a unit whose hash says so, on average after `ROWS_PER_PART` rows or `UNITS_PER_PART` units, whichever
comes first. A shard that is added or removed changes only the part that it falls into, wherever it sorts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from pipeline.data.units import Unit

ROWS_PER_PART = 20_000
UNITS_PER_PART = 500
"""Reading a unit's bundles takes longer than its rows do, so that parts of small units have fewer rows."""
MOST = 4
"""The multiple of the average at which a part ends, whatever the hashes say: it bounds the writer's memory."""
_RANGE = 2**64


def grouped(units: Sequence[Unit], rows_per_part: int | None = None) -> Iterator[range]:
    """Yield the numbers of the units of each part, in their order."""
    rows = ROWS_PER_PART if rows_per_part is None else rows_per_part
    first, filled = 0, 0.0
    for number, unit in enumerate(units):
        share = max((unit.stop - unit.first) / rows, 1 / UNITS_PER_PART)
        filled += share
        if filled > MOST - share / 2 or _hash(unit.name) < share * _RANGE:
            yield range(first, number + 1)
            first, filled = number + 1, 0.0
    if first < len(units):
        yield range(first, len(units))


def grouped_with_rows(
    units: Sequence[Unit], has_rows: Callable[[int], bool], rows_per_part: int | None = None
) -> Iterator[Sequence[int]]:
    """Yield the numbers of the units of each part that has rows; one part without units if none has any.

    Args:
        units: in their order.
        has_rows: whether the unit with a number has a bundle.
        rows_per_part: their average number.
    """
    some = False
    for numbers in grouped(units, rows_per_part):
        if any(map(has_rows, numbers)):
            some = True
            yield numbers
    if not some:
        yield ()


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
