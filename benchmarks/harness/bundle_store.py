"""A published store of given codes, without a run: its bundles are real, its index may list each many times."""

from __future__ import annotations

import itertools
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
    parts, columns, count = list[Mapping[str, pa.Array]](), dict[str, list[object]](), 0
    while count < images:
        unit = f"copy-{count:09d}"
        names = [entry.name.replace(f"/{first.unit}/", f"/{unit}/") for entry in first.files]
        for entry, name in zip(first.files, names, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / entry.name, folder / name)
        for key, (offset, size) in itertools.islice(itertools.cycle(places.items()), max(UNIT, len(places))):
            _append(columns, f"{count:09d}-{key}", unit, names[1], names[0], offset, size)
            count += 1
        if len(columns["key"]) >= ROWS_PER_PART or count >= images:
            parts.append({name: pa.array(values) for name, values in columns.items()})
            columns = {}
    _publish(ledger, parts, count)


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
