"""The content of a map stage's bundle: one row per sample, and the arrays and files of the recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.bundles import read_arrays, read_files, read_rows, write_files, write_npz, write_rows, write_tar
from infra.errors import BundleError, DamagedBundleError
from infra.receipts import Attempt, Receipt, damage_of
from stages.base.stage import Record, Rejected, Stage

ROWS, ARRAYS, FILES = "records.parquet", "arrays.tar", "files.tar"
OWN_COLUMNS = {"key": str, "shard": str, "outcome": str, "reason": str}
"""Columns of every bundle's rows."""

SHARD_OFFSET = "shard_offset"
"""Column with the byte in its shard at which a sample begins, of a stage that is `located`."""
OFFSET, BYTES = "codes_offset", "codes_bytes"
"""Columns with the place of a sample's npz in the tar of the arrays, of a stage that is `located`."""

Content = Callable[[Receipt, str], bytes]
"""Returns a file of a bundle by its name, like `Ledger.read_file`."""


def put_records(attempt: Attempt, stage: Stage, rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> None:
    """Write rows and records as the files of a bundle: those that the stage keeps, even if no record has any.

    Args:
        attempt: receives the files.
        stage: names its columns, and the contents of its records in addition to rows (`Stage.keeps`).
        rows: of all samples, as `rows_of` returns them.
        records: of the recorded samples, in the same order.

    Raises:
        BundleError: a record holds something that its stage does not keep or that cannot be written.
    """
    files = any(r.files.keys() - stage.with_arrays for r in records)
    for part, held in (("arrays", any(r.arrays for r in records)), ("files", files)):
        if held and part not in stage.keeps:
            raise BundleError(
                f"records of {stage.name} hold {part}, its `keeps` is {sorted(stage.keeps)}; add {part!r}"
            )
    named = {"stage": stage.name, "fingerprint": attempt.address.fingerprint}
    columns = {name: kind for name, kind in stage.columns.items() if rows and name in rows[0]}
    npz = f"{stage.member or stage.name}.npz"
    arrays, places = write_tar((r.key, _with_arrays(stage, r, npz)) for r in records if r.arrays)
    if stage.located and records:
        found = [places.get((row["key"], npz)) for row in rows]
        rows = [
            {**row, OFFSET: None if place is None else place.offset, BYTES: None if place is None else place.size}
            for row, place in zip(rows, found, strict=True)
        ]
    attempt.put(ROWS, write_rows(rows, named, {**OWN_COLUMNS, **columns}))
    if "arrays" in stage.keeps:
        attempt.put(ARRAYS, arrays)
    if "files" in stage.keeps:
        attempt.put(FILES, write_files((r.key, r.files) for r in records))


def read_records(
    content: Content,
    receipt: Receipt,
    keys: Container[str] | None = None,
    *,
    rows: bool = True,
    arrays: Container[str] | None = None,
    files: bool = False,
) -> dict[str, Record]:
    """Return records of a bundle by key, in the order of its receipt.

    Args:
        content: reads the bundle's files.
        receipt: of the bundle.
        keys: of the requested records; None requests all that are recorded.
        rows: whether to read their row values.
        arrays: names of the requested arrays; None requests all, an empty tuple leaves their file unread.
        files: whether to read their named files.

    Raises:
        DamagedBundleError: a file is missing, differs from its receipt, or lacks a sample that is recorded.
    """
    recorded = [key for key in receipt.recorded if keys is None or key in keys]
    wanted = set(recorded).__contains__
    row_of = _rows(content(receipt, ROWS), receipt) if rows else {}
    arrays_of: dict[str, dict[str, NDArray[np.generic]]] = {}
    if arrays != ():
        arrays_of = dict(read_arrays(content(receipt, ARRAYS), wanted, arrays))
    files_of = dict(read_files(content(receipt, FILES), wanted)) if files else {}
    return {key: Record(key, row_of.get(key, {}), arrays_of.get(key, {}), files_of.get(key, {})) for key in recorded}


def rows_of(samples: Sequence[Mapping[str, Any]], results: Sequence[Record | str]) -> list[dict[str, Any]]:
    """Return one row per sample: its name, its outcome, and its record's values.

    All rows have the same columns; a sample with a reason instead of a record is quarantined, its values are null.
    """
    columns = dict.fromkeys(name for result in results if isinstance(result, Record) for name in result.row)
    rows = []
    for named, result in zip(samples, results, strict=True):
        reason = result if isinstance(result, str) else None
        values = result.row if isinstance(result, Record) else {}
        outcome = "recorded" if reason is None else "quarantined"
        own = {**named, "outcome": outcome, "reason": reason}
        rows.append(own | {name: values.get(name) for name in columns})
    return rows


def with_reason(stage: str, computed: Record | Rejected) -> Record | str:
    """Return a record, or the reason why there is none, with the stage that gave it."""
    return f"{stage}: {computed.reason}" if isinstance(computed, Rejected) else computed


def _with_arrays(stage: Stage, record: Record, npz: str) -> dict[str, bytes]:
    """Return the members of the tar of arrays for one record."""
    files = {name: content for name, content in record.files.items() if name in stage.with_arrays}
    return {npz: write_npz(record.arrays, record.key), **files}


def _rows(data: bytes, receipt: Receipt) -> dict[str, dict[str, Any]]:
    rows = {row["key"]: row for row in read_rows(data)}
    if missing := [key for key in receipt.recorded if key not in rows]:
        raise DamagedBundleError([damage_of(receipt, f"{ROWS} lacks {missing[0]}, which the receipt says is recorded")])
    return rows
