"""A published store of given codes, without a run: its bundles are real, its index may list each many times."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.bundles import write_table
from infra.receipts import Address, Ledger
from infra.stores.folder import FolderStore
from pipeline.data.records import ARRAYS, BYTES, OFFSET, ROWS, put_records, rows_of
from pipeline.publish.pointer import Pointer, SupervisionPointer, move_pointer
from stages.base.stage import Record
from stages.invert import Invert

FINGERPRINT = "0" * 16
ROWS_PER_PART = 100_000
UNIT = 64
"""Images that the index lists for each unit, as by default; units with fewer are listed several times."""


def write_store(folder: Path, units: Sequence[Sequence[Record]]) -> Ledger:
    """Commit units of inversions, publish them, and return the ledger."""
    ledger = Ledger(FolderStore(folder))
    stage = Invert.model_construct()  # type: ignore[call-arg]  # only its class is used
    columns = dict[str, list[object]]()
    for number, records in enumerate(units):
        attempt = ledger.begin(Address(stage.name, FINGERPRINT, f"unit-{number:06d}"))
        rows = rows_of([{"key": record.key, "shard": "shard.tar"} for record in records], records)
        put_records(attempt, stage, rows, records)
        receipt = attempt.commit({record.key: None for record in records}, {})
        places = _places(receipt.file(ARRAYS).name, folder)
        for record in records:
            offset, size = places[record.key]
            _append(columns, record.key, receipt.unit, receipt.file(ARRAYS).name, receipt.file(ROWS).name, offset, size)
    _publish(ledger, [{name: pa.array(values) for name, values in columns.items()}], sum(map(len, units)))
    return ledger


def enlarge(ledger: Ledger, folder: Path, images: int) -> None:
    """Publish an index of a number of images, whose units are copies (hard links) of the first committed one."""
    (first,) = list(ledger.receipts(Invert.name, FINGERPRINT))[:1]
    places = _places(first.file(ARRAYS).name, folder)
    each = max(UNIT, len(places))
    units = [f"copy-{number:09d}" for number in range(-(-images // each))]
    copies = {
        entry.filename: [_copied(folder, entry.name, first.unit, unit) for unit in units] for entry in first.files
    }
    unit_N, image_N = np.divmod(np.arange(images), each)
    offset_N, size_N = np.array(list(places.values()))[image_N % len(places)].T
    keys = list(places)
    columns = {
        "key": pa.array([f"{number:09d}-{keys[image % len(keys)]}" for number, image in enumerate(image_N.tolist())]),
        "outcome": pa.repeat("recorded", images),
        "reason": pa.repeat("", images),
        **{
            name: pa.array(values).take(pa.array(unit_N))
            for name, values in {"unit": units, "arrays": copies[ARRAYS], "records": copies[ROWS]}.items()
        },
        f"{Invert.name}.{OFFSET}": pa.array(offset_N),
        f"{Invert.name}.{BYTES}": pa.array(size_N),
    }
    starts = range(0, images, ROWS_PER_PART)
    parts = [{name: column.slice(start, ROWS_PER_PART) for name, column in columns.items()} for start in starts]
    _publish(ledger, parts, images)


def _copied(folder: Path, name: str, unit: str, copy: str) -> str:
    """Link a file of a unit as that of a copy of the unit, and return its name."""
    target = name.replace(f"/{unit}/", f"/{copy}/")
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    if not (folder / target).exists():
        os.link(folder / name, folder / target)
    return target


def _append(columns: dict[str, list[object]], key: str, unit: str, arrays: str, records: str, *place: int) -> None:
    row = {"key": key, "outcome": "recorded", "reason": "", "unit": unit, "arrays": arrays, "records": records}
    for name, value in {**row, f"{Invert.name}.{OFFSET}": place[0], f"{Invert.name}.{BYTES}": place[1]}.items():
        columns.setdefault(name, []).append(value)


def _places(arrays: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Return offset and size of each npz, from the rows next to its tar."""
    rows = pq.read_table((folder / arrays).with_name(ROWS), columns=["key", OFFSET, BYTES]).to_pylist()
    return {row["key"]: (row[OFFSET], row[BYTES]) for row in rows}


def _publish(ledger: Ledger, parts: Sequence[Mapping[str, pa.Array]], samples: int) -> None:
    attempt = ledger.begin(Address("publish", FINGERPRINT, f"index-{samples}"))
    names = [attempt.put(f"part-{number:05d}.parquet", write_table(part, {})).name for number, part in enumerate(parts)]
    receipt = attempt.commit({}, {"samples": samples})
    supervision = SupervisionPointer(index=(), shards="", receipt="", samples=0)
    pointer = Pointer(
        index=tuple(names),
        receipt=receipt.address.receipt_name,
        stages={Invert.name: FINGERPRINT},
        samples=samples,
        supervision=supervision,
    )
    move_pointer(ledger, pointer)


def record_of(key: str, arrays: Mapping[str, NDArray[np.generic]]) -> Record:
    """Return the record of an image's packed codes."""
    return Record(key, {"w_plus": arrays["w_plus"]}, dict(arrays))
