"""The rows of an index that the gallery can show, chosen from a few columns, however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.publish.rows import IndexRows, column_of, having
from pipeline.report.gallery import PICTURES, WORST
from pipeline.report.summary import OCCLUDED, PSNR_DB, Row

_COLUMNS = ("key", "role", "outcome", PSNR_DB, OCCLUDED)
_OTHER, _CLEAN, _OCCLUDED = 1, 2, 3


def shown_rows(rows: IndexRows) -> list[Row]:
    """Return the rows from which a gallery chooses the same as from all recorded rows."""
    groups, lowest, first = [np.zeros(0, np.uint8)], list[tuple[float, str, int]](), 0
    for table in rows.tables(_COLUMNS):
        recorded = having(table, outcome="recorded").to_numpy(zero_copy_only=False)
        held_out = having(table, role="held_out").to_numpy(zero_copy_only=False)
        occluded = having(table, **{OCCLUDED: "true"}).to_numpy(zero_copy_only=False)
        kind = np.where(held_out, np.where(occluded, _OCCLUDED, _CLEAN), _OTHER)
        groups.append(np.where(recorded, kind, 0).astype(np.uint8))
        psnr_db = column_of(table, PSNR_DB)
        measured = np.flatnonzero(recorded & pc.is_valid(psnr_db).to_numpy(zero_copy_only=False))
        if measured.size:
            some = table.take(measured).append_column("number", [measured + first])
            order = pc.select_k_unstable(some, WORST, [(PSNR_DB, "ascending"), ("key", "ascending")])
            least = some.take(order).select([PSNR_DB, "key", "number"]).to_pylist()
            lowest = sorted([*lowest, *(tuple(row.values()) for row in least)])[:WORST]
        first += table.num_rows
    group_of_row = np.concatenate(groups)
    worst = [number for _, _, number in lowest][: int(np.count_nonzero(group_of_row)) // 2]
    group_of_row[worst] = 0
    rows_shown: list[Row] = [*rows.at([*worst, *_chosen(group_of_row)])]
    return rows_shown


def _chosen(group_of_row: NDArray[np.uint8], count: int = PICTURES) -> list[int]:
    """Return row numbers: held-out and occluded ones first, then evenly from the others."""
    chosen = _evenly(np.flatnonzero(group_of_row == _OCCLUDED).tolist(), count // 2)
    chosen += _evenly(np.flatnonzero(group_of_row == _CLEAN).tolist(), count // 4)
    return [*chosen, *_evenly(np.flatnonzero(group_of_row == _OTHER).tolist(), count - len(chosen))]


def _evenly(numbers: Sequence[int], count: int) -> list[int]:
    """Return `count` numbers, or all if there are fewer, spread over the whole sequence."""
    spread = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).astype(int)
    return [numbers[i] for i in sorted(set(spread.tolist()))]
