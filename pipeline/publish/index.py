"""An index of all bundles as one parquet dataset, and the one pointer that readers follow, moved last."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.bundles import read_rows
from infra.damage import Damages
from infra.receipts import Address, Ledger, Receipt
from pipeline.data.inventory import FINGERPRINT, STAGE, shard_of
from pipeline.data.units import Selection, Shard, Unit
from pipeline.jobs.map_job import ARRAYS, OWN_COLUMNS, ROWS, read_records
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from pipeline.publish.parts import index_address, parts_of, put_rows, standing
from pipeline.publish.pointer import POINTER, Pointer, SupervisionPointer, address_in, move_pointer, read_pointer
from pipeline.publish.settings import portable_settings
from pipeline.publish.supervision import SHARDS, SupervisionIndex
from stages.base.stage import Record
from stages.train_segmenter import TrainSegmenter

__all__ = ["POINTER", "Index", "Publication", "published", "published_supervision", "read_index"]

VERSION = 4
INVENTORIES = "inventories.json"
"""The file of an index that names the inventories of the shards it is over."""

_OWN = tuple(OWN_COLUMNS)


@dataclass(frozen=True)
class Publication:
    """A committed index, and whether readers were pointed to it."""

    receipt: Receipt
    gaps: Mapping[str, Any]  # what it lacks; empty if it is complete
    moved: bool


@dataclass(frozen=True)
class Index:
    """What is published: the committed bundles of the last stage over the units of the input as it is now."""

    ledger: Ledger
    steps: Steps  # over all samples
    error_maps: MapStep
    units: Sequence[Unit]
    supervised: Sequence[Unit]  # units of error_maps
    selection: Selection
    trained: str = ""  # fingerprint of train_segmenter
    inventories: Sequence[str] = ()  # units of the inventory, of the shards that this is over
    unread: int = 0  # listed shards that have no inventory
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, Receipt], segmenter: Receipt, unread: int = 0) -> Index:
        """Return the index of a run over some shards."""
        steps, error_maps = plan.map_steps(segmenter), plan.error_maps()
        return cls(
            ledger=plan.ledger,
            steps=steps,
            error_maps=error_maps,
            units=plan.units(shards, steps.last.selection),
            supervised=plan.units(shards, error_maps.selection),
            selection=plan.supervision,
            trained=segmenter.fingerprint,
            inventories=[receipt.unit for receipt in shards.values()],
            unread=unread,
            settings=portable_settings(plan.config),
        )

    @property
    def every_step(self) -> Steps:
        """The steps that this is made of, in order."""
        return Steps([self.error_maps, *self.steps])

    def units_of(self, step: MapStep) -> Sequence[Unit]:
        """Return the units of a step: of all samples, or of the supervision."""
        return self.supervised if step.stage.supervision_only else self.units

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of every stage that this is made of."""
        over_supervision = {self.error_maps.stage.name: self.error_maps.fingerprint}
        return self.steps.fingerprints | over_supervision | {TrainSegmenter.name: self.trained}

    @property
    def address(self) -> Address:
        """Where this index lies: another set of bundles, or one of them made again, gives another index."""
        over = [(step, self.units_of(step)) for step in (*self.steps, self.error_maps)]
        return index_address(self.ledger, over, VERSION, "index", self.inventories)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row per sample: outcome, role, every stage's figures as `STAGE.COLUMN`; tensors stay in bundles.

        Raises:
            DamagedBundleError: after the last row, with every bundle that is damaged.
        """
        damages = Damages()
        measured = self._measured(damages)
        for unit in self.units:
            bundles, tables = dict[str, Receipt | None](), dict[str, dict[str, dict[str, Any]]]()
            for step in self.steps:
                with damages.noted():
                    bundles[step.stage.name] = receipt = self._receipt(step, unit)
                    tables |= {step.stage.name: self._table(receipt)} if receipt is not None else {}
            last = self.steps.last.stage.name
            for key, row in tables.get(last, {}).items():
                merged = {name: row[name] for name in _OWN}
                merged |= {"unit": unit.name, "role": self.selection.role(unit.shard.name, str(key))}
                merged |= _files(bundles[last])
                for name, table in tables.items():
                    merged |= _figures(name, table.get(key, {}))
                yield merged | _figures(self.error_maps.stage.name, measured.get((unit.shard, str(key)), {}))
        damages.check()

    def records(self, step: MapStep, unit: Unit) -> dict[str, Record]:
        """Return what a stage recorded about the samples of a unit, by key; nothing where it has no bundle."""
        receipt = self._receipt(step, unit)
        return read_records(self.ledger, receipt) if receipt else {}

    def gaps(self) -> dict[str, Any]:
        """Return what is missing: shards that were not read, units without a bundle by stage, and their samples."""
        units, samples = Counter[str](), 0
        for step in (*self.steps, self.error_maps):
            done = self.ledger.units(step.stage.name, step.fingerprint)
            missing = [unit for unit in self.units_of(step) if unit.name not in done]
            units[step.stage.name] = len(missing)
            if step is self.steps.last:
                samples = sum(unit.stop - unit.first for unit in missing)
        gaps = {"shards": self.unread, "units": {name: count for name, count in units.items() if count}}
        gaps["samples"] = samples
        return {name: value for name, value in gaps.items() if value}

    def commit(self) -> Receipt:
        """Commit this index, unless it is there; return its receipt."""
        address = self.address
        return standing(self.ledger, address) or self._write(address)

    def publish(self) -> Publication:
        """Commit this index and that of the supervision, unless they are there, and then move the pointer to them.

        The pointer states what is missing. It stays where it is if not one sample is recorded.
        """
        receipt = self.commit()
        maps = SupervisionIndex(self.ledger, self.error_maps, self.supervised, self.selection).commit()
        gaps = self.gaps()
        if not receipt.info["recorded"]:
            return Publication(receipt, gaps, moved=False)
        supervision = SupervisionPointer(
            index=parts_of(maps),
            shards=maps.file(SHARDS).name,
            receipt=maps.address.receipt_name,
            samples=int(str(maps.info["samples"])),
        )
        pointer = Pointer(
            index=parts_of(receipt),
            receipt=receipt.address.receipt_name,
            stages=self.fingerprints,
            samples=int(str(receipt.info["samples"])),
            gaps=gaps,
            settings=dict(self.settings),
            supervision=supervision,
        )
        move_pointer(self.ledger, pointer)
        return Publication(receipt, gaps, moved=True)

    def _write(self, address: Address) -> Receipt:
        started, attempt, counts = time.time(), self.ledger.begin(address), Counter[str]()
        samples = put_rows(attempt, self._counted(counts))
        attempt.put(INVENTORIES, json.dumps(list(self.inventories)).encode())
        counted = {"samples": samples, "recorded": counts["recorded"]}
        return attempt.commit({}, {**counted, "started": started, "finished": time.time()})

    def _counted(self, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        for row in self.rows():
            counts[row["outcome"]] += 1
            yield row

    def _measured(self, damages: Damages) -> dict[tuple[Shard, str], Mapping[str, Any]]:
        """Return the rows of the supervision subset by shard and key."""
        found: dict[tuple[Shard, str], Mapping[str, Any]] = {}
        for unit in self.supervised:
            with damages.noted():
                receipt = self._receipt(self.error_maps, unit)
                table = self._table(receipt) if receipt is not None else {}
                found |= {(unit.shard, key): row for key, row in table.items()}
        return found

    def _receipt(self, step: MapStep, unit: Unit) -> Receipt | None:
        return self.ledger.receipt(Address(step.stage.name, step.fingerprint, unit.name))

    def _table(self, receipt: Receipt) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in read_rows(self.ledger.read_file(receipt, ROWS))}


def read_index(ledger: Ledger, receipt: Receipt) -> list[dict[str, Any]]:
    """Return all rows of a published index."""
    parts = set(parts_of(receipt))
    return [
        row
        for entry in receipt.files
        if entry.name in parts
        for row in read_rows(ledger.read_file(receipt, entry.filename))
    ]


def read_inventories(ledger: Ledger, receipt: Receipt) -> dict[Shard, Receipt]:
    """Return the shards that a published index is over, with the receipts of their inventories."""
    units = json.loads(ledger.read_file(receipt, INVENTORIES))
    found = (ledger.receipt(Address(STAGE, FINGERPRINT, unit)) for unit in units)
    return {shard_of(receipt): receipt for receipt in found if receipt is not None}


def published(ledger: Ledger) -> Receipt | None:
    """Return the receipt of the index that the pointer leads to, None if nothing is published.

    Raises:
        BundleError: the pointer is damaged.
    """
    pointer = read_pointer(ledger)
    return None if pointer is None else ledger.receipt(address_in(ledger, pointer.receipt))


def published_supervision(ledger: Ledger) -> Receipt | None:
    """Return the receipt of the supervision's index, None if nothing is published or its bundle is gone.

    Raises:
        BundleError: the pointer is damaged.
    """
    pointer = read_pointer(ledger)
    return None if pointer is None else ledger.receipt(address_in(ledger, pointer.supervision.receipt))


def _files(receipt: Receipt | None) -> dict[str, str | None]:
    """Return the names of the files that hold a sample's codes: deltas and masks, and the row with w_plus."""
    names = {"arrays": ARRAYS, "records": ROWS}
    return {column: receipt.file(file).name if receipt else None for column, file in names.items()}


def _figures(stage: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{stage}.{name}": value
        for name, value in row.items()
        if name not in _OWN and not isinstance(value, np.ndarray)
    }
