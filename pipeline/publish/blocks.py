"""Rows of the index as columns: the records of stages for the samples of some units, side by side, without tensors.

The columns of a part are in the order in which its rows first have them, and of the type of their values; a column
without any value is one of strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from infra.bundles import write_table
from infra.errors import BundleError
from pipeline.data.records import OWN_COLUMNS
from pipeline.data.units import Selection

_OWN = tuple(OWN_COLUMNS)
Columns: TypeAlias = Mapping[str, pa.Array]


@dataclass(frozen=True)
class Block:
    """Some rows: equally long columns by name. One that has no value in any row has the type null."""

    rows: int
    columns: Columns

    @property
    def recorded(self) -> int:
        """The number of recorded samples."""
        return int(pc.sum(pc.equal(self.columns["outcome"], "recorded")).as_py() or 0) if self.rows else 0

    @classmethod
    def joined(cls, blocks: Sequence[Block]) -> Block:
        """Return the rows of some blocks, one block after another."""
        names = dict.fromkeys(name for block in blocks for name in block.columns)
        columns = {name: _joined([block.columns.get(name) or pa.nulls(block.rows) for block in blocks], name)
                   for name in names}  # fmt: skip
        return cls(sum(block.rows for block in blocks), columns)

    def parquet(self, metadata: Mapping[str, str]) -> bytes:
        """Return the rows as a parquet file."""
        own = {name: self.columns.get(name, pa.nulls(self.rows)) for name in (*_OWN, "role")}
        columns = self.columns if self.rows else own
        typed = {
            name: column.cast(pa.string()) if pa.types.is_null(column.type) else column
            for name, column in columns.items()
        }
        return write_table(typed, metadata)


def block_of(
    table: pa.Table,
    named: Mapping[str, str],
    roles: Sequence[str | None],
    figures: Mapping[str, Sequence[pa.Table]],
) -> Block:
    """Return the rows of some samples.

    Args:
        table: of the last stage, with the samples' rows only.
        named: values that are the same in all rows.
        roles: of the samples.
        figures: tables of every stage, in order; rows are found by key, whichever of a stage's tables has them.
    """
    rows, keys = table.num_rows, _column(table, "key")
    columns = {name: _column(table, name) for name in _OWN}
    constant = {name: pa.array([value] * rows, pa.string()) for name, value in named.items()}
    columns |= {"unit": constant.pop("unit"), "role": pa.array(roles, pa.string()), **constant}
    for stage, tables in figures.items():
        columns |= {f"{stage}.{name}": column for name, column in _found(tables, keys).items()}
    return Block(rows, {name: _without_type(column) for name, column in columns.items()})


def roles_of(selection: Selection, shard: str, table: pa.Table) -> list[str | None]:
    """Return the roles of the samples of a table."""
    return [selection.role(shard, key) for key in table.column("key").to_pylist()]


def _found(tables: Iterable[pa.Table], keys: pa.Array) -> dict[str, pa.Array]:
    """Return the figures of samples, by column; nothing of tables without any of the samples."""
    found: dict[str, pa.Array] = {}
    for table in tables:
        held = _column(table, "key")
        indices = None if held.equals(keys) else pc.index_in(keys, value_set=held)
        if indices is not None and indices.null_count == len(indices):
            continue
        rows = table if indices is None else table.take(indices)
        for name in rows.column_names:
            if name not in _OWN:
                column = _without_type(_column(rows, name))
                found[name] = _filled(found[name], column, name) if name in found else column
    return found


def _filled(first: pa.Array, second: pa.Array, name: str) -> pa.Array:
    """Return a column with the values of a second one where it has none."""
    kind = _type_of([first, second], name)
    return pc.coalesce(first.cast(kind), second.cast(kind))


def _joined(columns: Sequence[pa.Array], name: str) -> pa.Array:
    kind = _type_of(columns, name)
    return pa.concat_arrays([column.cast(kind) for column in columns])


def _type_of(columns: Sequence[pa.Array], name: str) -> pa.DataType:
    """Return the type that fits the values of some columns; null if there are none."""
    kinds = list(dict.fromkeys(column.type for column in columns if not pa.types.is_null(column.type)))
    if set(kinds) == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(kinds) > 1:
        raise BundleError(f"column {name!r} mixes {', '.join(map(str, kinds))}; give every row the same type")
    return kinds[0] if kinds else pa.null()


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _without_type(column: pa.Array) -> pa.Array:
    return pa.nulls(len(column)) if column.null_count == len(column) else column
