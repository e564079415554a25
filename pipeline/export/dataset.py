"""The format `dataset`: a folder of its own that stock tools open, with tars of codes, parquet and a card.

README.md                   the card, written last; `datasets.load_dataset(FOLDER)` finds the parquet through it
data/train-00000.parquet    one row per recorded image: key, figures, w_plus, and where its codes are
codes/000000.tar            KEY.codes.npz: deltas and masks, as the store has them
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.bundles import read_rows
from infra.errors import DamagedBundleError
from infra.receipts import Address, Ledger, damage_of
from pipeline.data.records import ARRAYS, BYTES, OFFSET, ROWS, SHARD_OFFSET
from pipeline.errors import CommandError
from pipeline.export.format import Format
from pipeline.export.published import PublishedCodes
from pipeline.export.shards import ShardWriter, members_of
from pipeline.plan.graph import GRAPH
from pipeline.publish.rows import IndexRows
from pipeline.report.card import NAME, PICTURES, Card
from pipeline.report.conclude import conclude
from pipeline.report.described import described

DATA, CODES = "data", "codes"
ROWS_PER_GROUP = 512
_READ_AHEAD = 2
_LEFT_OUT = ("outcome", "reason", "arrays", "records")
"""Columns of the index that say nothing here: all rows are recorded, and their files are in this folder."""
_PLACES = tuple(f".{name}" for name in (OFFSET, BYTES, SHARD_OFFSET))  # in other files than those of this folder
_FILES = """\
`data/*.parquet` has one row per image: its key and shard, what every stage measured (`invert.psnr_db`, …), and `w_plus`
`[num_ws, w_dim]` float16. `codes_tar` and `codes_member` name its deltas and masks in `codes/*.tar`, `codes_offset` and
`codes_size` the member's bytes in that tar, so that one ranged read fetches them.

```python
from datasets import load_dataset

images = load_dataset("FOLDER", split="train")
```

`webdataset` reads the tars, `numpy.load(member, allow_pickle=False)` their members."""


@dataclass(frozen=True)
class _UnitContent:
    """The files of a unit that an export needs."""

    w_plus: Mapping[str, NDArray[Any]]
    codes: Mapping[str, dict[str, bytes]]


def _write(codes: PublishedCodes, folder: Path) -> str:
    """Write what is published as a data set of its own; memory holds a few units."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} is not an empty folder; choose another, or remove it")
    shards, images, stage = ShardWriter(folder / CODES), 0, GRAPH.last.name
    try:
        (folder / DATA).mkdir(parents=True)
        for number, table in enumerate(IndexRows(codes.ledger, codes.index).tables()):
            recorded = table.filter(pc.equal(table.column("outcome"), "recorded"))
            path = folder / DATA / f"train-{number:05d}.parquet"
            images += _write_part(path, recorded, codes.ledger, (stage, codes.pointer.stages[stage]), shards)
    finally:
        shards.close()
    card = conclude(described(codes.config, asked=False)).card
    assert card is not None, "conclusions of what is published have a card"
    _write_card(folder, replace(card, data_files=(f"{DATA}/*.parquet",), files=_FILES))
    return f"{images:,} images with codes and card as {folder}"


def _write_card(folder: Path, card: Card) -> None:
    """Write pictures and card; the card last, since a folder with one is complete."""
    if card.sheet is not None:
        (folder / PICTURES).parent.mkdir()
        (folder / PICTURES).write_bytes(card.sheet)
    (folder / NAME).write_text(card.text)


def _write_part(path: Path, table: pa.Table, ledger: Ledger, stage: tuple[str, str], shards: ShardWriter) -> int:
    """Write the rows of a part of the index with their codes, and return their number."""
    writer = None
    try:
        for rows in _groups(_of_units(table, ledger, stage, shards)):
            writer = pq.ParquetWriter(path, rows.schema, compression="zstd") if writer is None else writer
            writer.write_table(rows.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return int(table.num_rows)


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables joined into groups of rows."""
    waiting, rows = list[pa.Table](), 0
    for table in tables:
        waiting, rows = [*waiting, table], rows + table.num_rows
        if rows >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _of_units(table: pa.Table, ledger: Ledger, stage: tuple[str, str], shards: ShardWriter) -> Iterator[pa.Table]:
    """Yield the rows of each unit with w_plus and the place of its codes, which are written on the way."""
    units = [(unit, len(list(rows))) for unit, rows in itertools.groupby(table.column("unit").to_pylist())]
    first = 0
    with ThreadPoolExecutor(_READ_AHEAD, "bundles") as readers:
        ahead = [readers.submit(_content, ledger, Address(*stage, unit)) for unit, _ in units[:_READ_AHEAD]]
        for number, (_, count) in enumerate(units):
            content = ahead.pop(0).result()
            if number + _READ_AHEAD < len(units):
                ahead.append(readers.submit(_content, ledger, Address(*stage, units[number + _READ_AHEAD][0])))
            yield _with_codes(table.slice(first, count), content, shards)
            first += count


def _content(ledger: Ledger, address: Address) -> _UnitContent:
    receipt = ledger.required(address)
    rows = read_rows(ledger.read_file(receipt, ROWS), ["key", "outcome", "w_plus"])
    w_plus = {row["key"]: row["w_plus"] for row in rows if row["outcome"] == "recorded"}
    codes = dict(members_of(ledger.read_file(receipt, ARRAYS)))
    if lacking := w_plus.keys() - codes.keys():
        raise DamagedBundleError([damage_of(receipt, f"{ARRAYS} lacks the codes of {min(lacking)}")])
    return _UnitContent(w_plus, codes)


def _with_codes(rows: pa.Table, content: _UnitContent, shards: ShardWriter) -> pa.Table:
    keys = rows.column("key").to_pylist()
    placed = [shards.add(key, content.codes[key]) for key in keys]
    kept = rows.drop_columns([name for name in rows.column_names if name in _LEFT_OUT or name.endswith(_PLACES)])
    columns = {
        "codes_tar": pa.array([f"{CODES}/{place.tar}" for place in placed]),
        "codes_member": pa.array([place.member for place in placed]),
        "codes_offset": pa.array([place.offset for place in placed], pa.int64()),
        "codes_size": pa.array([place.size for place in placed], pa.int64()),
        "w_plus": _nested([content.w_plus[key] for key in keys]),
    }
    for name, values in columns.items():
        kept = kept.append_column(name, values)
    return kept.replace_schema_metadata(None)


def _nested(codes: Sequence[NDArray[Any]]) -> pa.Array:
    """Return w_plus as lists of lists, which every reader of parquet knows; the sizes are part of the type."""
    stacked_NLD = np.stack(codes)
    values = pa.array(stacked_NLD.reshape(-1))
    for size in stacked_NLD.shape[:0:-1]:
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


FORMAT = Format("dataset", _write, "stock tools, `datasets.load_dataset` and the Hugging Face hub", whole=True)
