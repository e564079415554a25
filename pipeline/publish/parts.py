"""The common parts of published indexes: rows committed as numbered parquet files, under an address of their inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from infra.bundles import write_rows
from infra.errors import DamagedBundleError
from infra.receipts import Address, Attempt, Ledger, Receipt
from pipeline.data.fingerprint import fingerprint
from pipeline.data.records import OWN_COLUMNS
from pipeline.publish.contents import STAGE
from pipeline.publish.held import Held

ROWS_PER_PART = 100_000
_TYPES = {**OWN_COLUMNS, "role": str}


def index_address(held: Held, version: int, unit: str) -> Address:
    """Return the address of an index: other bundles, or one of them made again, give another index.

    So do other inventories, as with a shard of which nothing could be read: it has no units.
    """
    return Address(STAGE, fingerprint(STAGE, version, {}, held.fingerprints, extra={"bundles": held.digest}), unit)


def standing(ledger: Ledger, address: Address) -> Receipt | None:
    """Return the receipt of an index that exists with all its files, None if there is none.

    The files are not read: readers and `verify` compare their checksums.

    Raises:
        DamagedBundleError: files are missing, or have another size.
    """
    receipt = ledger.receipt(address)
    if receipt is not None and (damages := ledger.listed_damages(receipt)):
        raise DamagedBundleError(damages)
    return receipt


def parts_of(receipt: Receipt) -> tuple[str, ...]:
    """Return the names of an index's parquet files."""
    return tuple(entry.name for entry in receipt.files if entry.name.endswith(".parquet"))


def put_rows(
    attempt: Attempt, rows: Iterable[dict[str, Any]], types: Mapping[str, type[str] | type[float]] = _TYPES
) -> int:
    """Write rows as `part-NNNNN.parquet` and return how many there were; missing values are null.

    `types` are those of columns that every part has.
    """
    count = 0
    for number, part in enumerate(_parts(rows)):
        attempt.put(f"part-{number:05d}.parquet", parquet_of(part, types))
        count += len(part)
    return count


def parquet_of(rows: Sequence[dict[str, Any]], types: Mapping[str, type[str] | type[float]]) -> bytes:
    """Return rows as parquet, with at least the columns of `types`; missing values are null."""
    names = list(dict.fromkeys([*(name for row in rows for name in row), *types]))
    return write_rows([{name: row.get(name) for name in names} for row in rows], {"stage": STAGE}, types)


def _parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in parts; one empty part if there are none."""
    remaining = iter(rows)
    part = list(itertools.islice(remaining, ROWS_PER_PART))
    yield part
    while part := list(itertools.islice(remaining, ROWS_PER_PART)):
        yield part
