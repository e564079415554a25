"""An index of all bundles as one parquet dataset, and the one pointer that readers follow, moved last."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.bundles import read_rows
from infra.errors import BundleError
from infra.receipts import Address, Ledger, Receipt
from pipeline.index_parts import index_address, put_rows
from pipeline.map_job import ARRAYS, OWN_COLUMNS, ROWS, read_records
from pipeline.plan import MapStep
from pipeline.supervision import SHARDS, SupervisionIndex
from pipeline.units import Selection, Unit
from stages.stage import Record

POINTER = "published.json"
VERSION = 3
_OWN = tuple(OWN_COLUMNS)


@dataclass(frozen=True)
class Index:
    """What is published: the committed bundles of the last stage over the units of the input as it is now."""

    ledger: Ledger
    steps: Sequence[MapStep]  # predict_maps, refine_maps, invert
    error_maps: MapStep
    units: Sequence[Unit]
    supervised: Sequence[Unit]  # units of error_maps
    selection: Selection

    @property
    def address(self) -> Address:
        """Where this index lies: another set of bundles, or one of them made anew, is another index."""
        over = [(step, self.units) for step in self.steps] + [(self.error_maps, self.supervised)]
        return index_address(self.ledger, over, VERSION, "index")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row a sample: outcome, role, every stage's figures as `STAGE.COLUMN`; tensors stay in bundles."""
        measured = self._measured()
        for unit in self.units:
            bundles = [(step.stage.name, self._receipt(step, unit)) for step in self.steps]
            tables = {name: self._table(receipt) for name, receipt in bundles if receipt is not None}
            last = self.steps[-1].stage.name
            for key, row in tables.get(last, {}).items():
                merged = {name: row[name] for name in _OWN}
                merged |= {"unit": unit.name, "role": self.selection.role(unit.shard.name, str(key))}
                merged["arrays"] = self._arrays_name(dict(bundles)[last])
                for name, table in tables.items():
                    merged |= _figures(name, table.get(key, {}))
                yield merged | _figures("error_maps", measured.get((unit.shard.name, str(key)), {}))

    def records(self, step: MapStep, unit: Unit) -> dict[str, Record]:
        """Return what a stage recorded about the samples of a unit, by key; nothing where it has no bundle."""
        receipt = self._receipt(step, unit)
        return read_records(self.ledger, receipt) if receipt else {}

    def publish(self) -> Receipt:
        """Commit this index and that of the supervision, unless they are there, and then move the pointer to them.

        Return the receipt of this index.
        """
        address = self.address
        receipt = self.ledger.receipt(address) or self._write(address)
        maps = SupervisionIndex(self.ledger, self.error_maps, self.supervised, self.selection).commit()
        pointer = {
            "index": [entry.name for entry in receipt.files],
            "receipt": receipt.address.receipt_name,
            "stages": {step.stage.name: step.fingerprint for step in (*self.steps, self.error_maps)},
            "samples": receipt.info["samples"],
            "supervision": {
                "index": [entry.name for entry in maps.files if entry.filename != SHARDS],
                "shards": maps.file(SHARDS).name,
                "receipt": maps.address.receipt_name,
                "samples": maps.info["samples"],
            },
        }
        data = json.dumps(pointer, indent=2).encode()
        store = self.ledger.store
        if not (store.exists(POINTER) and store.read(POINTER) == data):
            store.write(POINTER, data)
        return receipt

    def _write(self, address: Address) -> Receipt:
        started, attempt = time.time(), self.ledger.begin(address)
        samples = put_rows(attempt, self.rows())
        return attempt.commit({}, {"samples": samples, "started": started, "finished": time.time()})

    def _measured(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Return the rows of the supervision subset by shard and key."""
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for unit in self.supervised:
            receipt = self._receipt(self.error_maps, unit)
            table = self._table(receipt) if receipt is not None else {}
            found |= {(unit.shard.name, key): row for key, row in table.items()}
        return found

    def _receipt(self, step: MapStep, unit: Unit) -> Receipt | None:
        return self.ledger.receipt(Address(step.stage.name, step.fingerprint, unit.name))

    def _table(self, receipt: Receipt) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in read_rows(self.ledger.read_file(receipt, ROWS))}

    def _arrays_name(self, receipt: Receipt | None) -> str | None:
        return receipt.file(ARRAYS).name if receipt is not None else None


def read_index(ledger: Ledger, receipt: Receipt) -> list[dict[str, Any]]:
    """Return all rows of a published index."""
    return [row for entry in receipt.files for row in read_rows(ledger.read_file(receipt, entry.filename))]


def published(ledger: Ledger) -> Receipt | None:
    """Return the receipt of the index that the pointer leads to, None if nothing is published.

    Raises:
        BundleError: the pointer is damaged.
    """
    return _published(ledger)


def published_supervision(ledger: Ledger) -> Receipt | None:
    """Return the receipt of the supervision's index, None if nothing is published or its bundle is gone.

    Raises:
        BundleError: the pointer is damaged.
    """
    return _published(ledger, "supervision")


def _published(ledger: Ledger, *within: str) -> Receipt | None:
    if not ledger.store.exists(POINTER):
        return None
    try:
        pointer = json.loads(ledger.store.read(POINTER))
        for name in within:
            pointer = pointer[name]
        stage, digest, unit = pointer["receipt"].removesuffix(".json").split("/")[1:]
        return ledger.receipt(Address(stage, digest, unit))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{ledger.store.url}/{POINTER} is damaged; run again, and it is written anew") from error


def _figures(stage: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{stage}.{name}": value
        for name, value in row.items()
        if name not in _OWN and not isinstance(value, np.ndarray)
    }
