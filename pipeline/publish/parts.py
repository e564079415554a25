"""The common parts of published indexes: rows committed as numbered parquet files, under an address of their inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra.bundles import write_rows
from infra.errors import DamagedBundleError
from infra.receipts import Address, Attempt, Ledger, Receipt, damage_of
from pipeline.data.fingerprint import fingerprint
from pipeline.data.records import OWN_COLUMNS
from pipeline.publish.held import Held

STAGE = "publish"
ROWS_PER_PART = 100_000
_TYPES = {**OWN_COLUMNS, "role": str}


def index_address(held: Held, version: int, unit: str) -> Address:
    """Return the address of an index: other bundles, or one of them made again, give another index.

    So do other inventories, as with a shard of which nothing could be read: it has no units.
    """
    return Address(STAGE, fingerprint(STAGE, version, {}, held.fingerprints, extra={"bundles": held.digest}), unit)


def standing(ledger: Ledger, address: Address) -> Receipt | None:
    """Return the receipt of an index that exists and is whole, None if there is none.

    Raises:
        DamagedBundleError: it exists and is damaged.
    """
    receipt = ledger.receipt(address)
    if receipt is not None and (wrong := ledger.verify(receipt)):
        raise DamagedBundleError([damage_of(receipt, "; ".join(wrong))])
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
        names = list(dict.fromkeys([*(name for row in part for name in row), *types]))
        whole = [{name: row.get(name) for name in names} for row in part]
        attempt.put(f"part-{number:05d}.parquet", write_rows(whole, {"stage": STAGE}, types))
        count += len(part)
    return count


def _parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in parts; one empty part if there are none."""
    remaining = iter(rows)
    part = list(itertools.islice(remaining, ROWS_PER_PART))
    yield part
    while part := list(itertools.islice(remaining, ROWS_PER_PART)):
        yield part
