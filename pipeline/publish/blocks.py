"""Rows of the index as tables: the records of stages for the samples of some units, side by side, without tensors.

Every part of an index has the same columns with the same types, in the order of a template; columns of the data that
the template lacks come after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import BundleError
from pipeline.data.records import OWN_COLUMNS
from pipeline.data.units import Selection

OWN = tuple(OWN_COLUMNS)
NAMED = ("unit", "role", "arrays", "records")
"""Columns of strings that follow those of the last stage's rows."""
_FIRST = pa.schema([(name, pa.string()) for name in (*OWN, *NAMED)])


def figures_of(schema: pa.Schema) -> pa.Schema:
    """Return the columns of a stage's rows that become columns of the index."""
    return pa.schema([field for field in schema if field.name not in OWN])


def stacked(tables: Sequence[pa.Table], template: pa.Schema) -> pa.Table:
    """Return the rows of tables one after another, with at least the columns of the template.

    Raises:
        BundleError: a column has values of two types, unless they are integers and floats.
    """
    schemas = [template]
    for table in tables:
        if not any(table.schema.equals(schema) for schema in schemas):
            schemas.append(table.schema)
    names = dict.fromkeys(name for schema in schemas for name in schema.names)
    target = pa.schema([(name, _type_of(name, tables, schemas)) for name in names])
    return pa.concat_tables([target.empty_table(), *(_cast(table, target) for table in tables)]).combine_chunks()


def side_by_side(last: pa.Table, named: Mapping[str, pa.Array], figures: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of the index.

    Args:
        last: rows of the last stage, whose own columns come first.
        named: the columns `NAMED`.
        figures: the rows of every stage, in order, aligned with `last`.
    """
    columns = {name: last.column(name) for name in OWN} | {name: named[name] for name in NAMED}
    for stage, table in figures.items():
        columns |= {f"{stage}.{name}": table.column(name) for name in table.column_names if name not in OWN}
    return pa.table(columns)


def empty(figures: Mapping[str, pa.Schema]) -> pa.Table:
    """Return no rows, with the columns of an index."""
    each = [(f"{stage}.{field.name}", field.type) for stage, schema in figures.items() for field in schema]
    return pa.schema([*_FIRST, *(pa.field(name, kind) for name, kind in each)]).empty_table()


def aligned(table: pa.Table | None, keys: pa.ChunkedArray, template: pa.Schema) -> pa.Table:
    """Return the rows of some keys in their order; null where the table has none, or there is no table."""
    if table is None or not table.num_rows:
        return pa.table({field.name: pa.nulls(len(keys), field.type) for field in figures_of(template)})
    held = table.column("key")
    return table if held.equals(keys) else table.take(pc.index_in(keys, value_set=held))


def roles_of(selection: Selection, shard: str, keys: Iterable[str]) -> list[str | None]:
    """Return the roles of the samples of a shard."""
    return [selection.role(shard, key) for key in keys]


def recorded_in(table: pa.Table) -> int:
    """Return the number of recorded samples."""
    return int(pc.sum(pc.equal(table.column("outcome"), "recorded")).as_py() or 0)


def _cast(table: pa.Table, target: pa.Schema) -> pa.Table:
    if table.schema.equals(target):
        return table
    columns = {name: table.column(name) for name in table.column_names}
    rows = table.num_rows
    return pa.table(
        {
            field.name: pa.nulls(rows, field.type)
            if field.name not in columns or columns[field.name].null_count == rows
            else columns[field.name].cast(field.type)
            for field in target
        }
    )


def _type_of(name: str, tables: Sequence[pa.Table], schemas: Sequence[pa.Schema]) -> pa.DataType:
    """Return the type of a column: where tables differ, the one that fits all values."""
    kinds = list(dict.fromkeys(schema.field(name).type for schema in schemas if name in schema.names))
    if len(kinds) == 1:
        return kinds[0]
    columns = [table.column(name) for table in tables if name in table.column_names]
    used = list(dict.fromkeys(column.type for column in columns if column.null_count < len(column)))
    if set(used) == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(used) > 1:
        raise BundleError(f"column {name!r} mixes {', '.join(map(str, used))}; give every row the same type")
    return used[0] if used else kinds[0]
