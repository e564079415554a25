"""The rows of a committed index: memory holds some columns of one part at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.bundles import read_table
from infra.receipts import Ledger, Receipt
from pipeline.publish.parts import parts_of
from stages.base.stage import Stage


@dataclass(frozen=True)
class IndexRows:
    """The rows of one index; every part that is read is compared with its checksum."""

    ledger: Ledger
    receipt: Receipt

    def tables(self, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
        """Yield the parts with some columns or all; a column that a part lacks is null."""
        parts = set(parts_of(self.receipt))
        for entry in self.receipt.files:
            if entry.name in parts:
                yield read_table(self.ledger.read_entry(self.receipt, entry), columns)

    def rows(self, **values: str) -> list[dict[str, Any]]:
        """Return the rows in which some columns have some values; for few of them."""
        return [row for table in self.tables() for row in table.filter(having(table, **values)).to_pylist()]

    def at(self, numbers: Collection[int]) -> list[dict[str, Any]]:
        """Return the rows of some numbers, counted over all parts, in the order of the index."""
        rows, first, wanted = list[dict[str, Any]](), 0, sorted(set(numbers))
        for table in self.tables() if wanted else ():
            inside = [number - first for number in wanted if first <= number < first + table.num_rows]
            rows += table.take(inside).to_pylist() if inside else []
            first += table.num_rows
        return rows


def figure(stage: type[Stage], name: str) -> str:
    """Return the column of the index that holds a figure of a stage's records."""
    return f"{stage.name}.{name}"


def having(table: pa.Table, **values: str) -> pa.Array:
    """Return which rows of a table have some values in some columns."""
    mask = pa.array(np.ones(table.num_rows, bool))
    for name, value in values.items():
        mask = pc.and_(mask, pc.fill_null(pc.equal(column_of(table, name).cast(pa.string()), value), False))
    return mask


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a table; null everywhere if there is none."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows)
    return table.column(name).combine_chunks()


def numbers_of(table: pa.Table, name: str, mask: pa.Array | None = None) -> NDArray[np.float64]:
    """Return the values of a column of numbers, of all rows or some; rows without a value are omitted."""
    column = column_of(table, name)
    chosen = column if mask is None else column.filter(mask)
    return np.asarray(chosen.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def concatenated(arrays: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return concatenated arrays; an empty one if there are none."""
    return np.concatenate([np.zeros(0), *arrays])
