"""The images of a published index: where the codes of each are, found by key without reading anything more."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from infra.errors import BundleError, NotFoundError
from infra.receipts import Ledger
from infra.stores.storage import AnyOptions, open_store
from pipeline.publish.pointer import POINTER, Pointer, address_in
from pipeline.publish.rows import IndexRows

_OFFSET, _BYTES = ".codes_offset", ".codes_bytes"
_NAMED = ("key", "outcome", "reason", "unit", "arrays", "records")


class UnknownKeyError(KeyError):
    """No published image has this key, or several have it."""

    def __str__(self) -> str:  # a KeyError shows the repr of its message
        return str(self.args[0])


@dataclass(frozen=True)
class Entry:
    """One published image: its key and unit, and the files with its codes and its row.

    `offset` and `size` are the place of its npz in `arrays`; None for codes of version 1.
    """

    key: str
    unit: str
    arrays: str
    records: str
    offset: int | None
    size: int | None


class Catalogue:
    """The images of one published index, in its order. Some columns of it are in memory, about 40 bytes per image."""

    def __init__(self, rows: IndexRows, stages: Iterable[str]) -> None:
        self.rows = rows
        self._images = _images(rows, stages)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Entry]:
        return (self.at(number) for number in range(len(self)))

    def keys(self) -> list[str]:
        """Return the keys, in the order of the index."""
        return [str(key) for key in self._images.column("key").to_pylist()]

    def units(self) -> Iterator[tuple[str, str]]:
        """Yield the files of codes and of rows of each unit, in the order of the index."""
        tables = self._images.select(["arrays", "records"]).group_by(["arrays", "records"], use_threads=False)
        unique = tables.aggregate([])
        return zip(unique.column("arrays").to_pylist(), unique.column("records").to_pylist(), strict=True)

    def at(self, number: int) -> Entry:
        """Return an image by its number."""
        (row,) = self._images.slice(number, 1).to_pylist()
        return Entry(**row)

    def find(self, key: str, unit: str | None = None) -> Entry:
        """Return the image with a key.

        Raises:
            UnknownKeyError: there is none, or there are several and no unit is given; the message says which units.
        """
        found = [entry for entry in self.entries(key) if unit is None or entry.unit == unit]
        if len(found) == 1:
            return found[0]
        if found:
            units = ", ".join(entry.unit for entry in found)
            raise UnknownKeyError(f"several images have the key {key!r}: give its unit, image(key, unit), of {units}")
        reasons = [row["reason"] for row in self.rows.rows(key=key) if row["outcome"] == "quarantined"]
        if reasons:
            raise UnknownKeyError(f"there is no image {key!r}: it was quarantined ({reasons[0]})")
        known = f"; keys are like {self.at(0).key!r}" if len(self) else ""
        raise UnknownKeyError(f"no published image has the key {key!r}{known}")

    def entries(self, key: str) -> Iterator[Entry]:
        """Return the images with a key: one, unless several shards use it."""
        order, keys = self._order, self._images.column("key")
        first = bisect.bisect_left(order, key, key=lambda number: keys[number.as_py()].as_py())
        numbers = (order[place].as_py() for place in range(first, len(order)))
        return map(self.at, itertools.takewhile(lambda number: keys[number].as_py() == key, numbers))

    @functools.cached_property
    def _order(self) -> pa.Array:
        """The numbers of the images in the order of their keys."""
        return pc.sort_indices(self._images.column("key"))


def open_catalogue(address: str, options: AnyOptions | None = None) -> tuple[Ledger, Pointer, Catalogue]:
    """Return the images that a store, or one published version of it, leads to.

    Args:
        address: of a store, or of a pointer in it (`STORE/published.json`).
        options: how the store is reached.

    Raises:
        BundleError: nothing is published there, or the pointer is damaged.
    """
    folder, _, name = address.rstrip("/").rpartition("/")
    candidates = [(address, POINTER)]
    if name.endswith(".json"):
        parent, _, inner = folder.rpartition("/")
        candidates = [(folder or ".", name), (parent or ".", f"{inner}/{name}")]
    for root, pointer_name in candidates:
        ledger = Ledger(open_store(root, options))
        try:
            pointer = Pointer.model_validate_json(ledger.store.read(pointer_name))
        except NotFoundError:
            continue
        except ValidationError as error:
            raise BundleError(f"{root}/{pointer_name} is damaged; `invertmill run CONFIG` writes it again") from error
        receipt = ledger.receipt(address_in(ledger, pointer.receipt))
        if receipt is not None:
            return ledger, pointer, Catalogue(IndexRows(ledger, receipt), pointer.stages)
    raise BundleError(
        f"nothing is published at {address}: give the address of a run's `output`, or of a copy of all of it; "
        "`invertmill run CONFIG` publishes"
    )


def _images(rows: IndexRows, stages: Iterable[str]) -> pa.Table:
    """Return the recorded images, with columns named as the fields of `Entry`."""
    schema = pa.schema(
        {
            "key": pa.string(),
            **{name: pa.dictionary(pa.int32(), pa.string()) for name in ("unit", "arrays", "records")},
            "offset": pa.int64(),
            "size": pa.int64(),
        }
    )
    tables = [schema.empty_table()]
    places = [f"{stage}{ending}" for stage in stages for ending in (_OFFSET, _BYTES)]
    for table in rows.tables([*_NAMED, *places]):
        recorded = table.filter(pc.equal(table.column("outcome"), "recorded"))
        columns = {name: _column(recorded, name) for name in ("key", "unit", "arrays", "records")}
        columns |= {"offset": _column(recorded, _OFFSET), "size": _column(recorded, _BYTES)}
        tables.append(pa.table({name: columns[name].cast(schema.field(name).type) for name in schema.names}))
    return pa.concat_tables(tables).unify_dictionaries()


def _column(table: pa.Table, ending: str) -> pa.ChunkedArray:
    """Return the column with a name, or whose name ends so; null if there is none."""
    for name in table.column_names:
        if name.endswith(ending) if ending.startswith(".") else name == ending:
            return table.column(name)
    return pa.chunked_array([pa.nulls(table.num_rows)])
