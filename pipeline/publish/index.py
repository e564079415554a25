"""An index of all bundles as one parquet dataset, and the one pointer that readers follow, moved last."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.bundles import read_rows
from infra.receipts import Address, Ledger, Receipt, ReceiptHead
from pipeline.data.inventory import FINGERPRINT, STAGE, shard_of
from pipeline.data.receipt_info import IndexInfo, SupervisionIndexInfo
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.graph import GRAPH
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from pipeline.publish.build import PartsWriter
from pipeline.publish.contents import CONTENTS, written
from pipeline.publish.held import Held
from pipeline.publish.own_index import OwnIndexOf
from pipeline.publish.parts import index_address, parts_of, standing
from pipeline.publish.pointer import POINTER, Pointer, SupervisionPointer, address_in, move_pointer, read_pointer
from pipeline.publish.settings import portable_settings
from pipeline.publish.supervision import SHARDS, SupervisionIndex
from stages.base.stage import Stage
from stages.train_segmenter import TrainSegmenter

__all__ = ["POINTER", "Index", "Publication", "published", "published_own", "published_supervision", "read_index"]

VERSION = 4
INVENTORIES = "inventories.json"
"""The file of an index that names the inventories of its shards."""


@dataclass(frozen=True)
class Publication:
    """A committed index, and whether readers were pointed to it."""

    receipt: Receipt
    gaps: Mapping[str, Any]  # what it lacks; empty if it is complete
    moved: bool


@dataclass(frozen=True)
class Index:
    """What is published: the committed bundles of the last stage over the units of the present input."""

    ledger: Ledger
    steps: Steps  # over all samples
    error_maps: MapStep
    units: Sequence[Unit]
    supervised: Sequence[Unit]  # units of error_maps
    selection: Selection
    trained: str = ""  # fingerprint of train_segmenter
    inventories: Sequence[str] = ()  # units of the inventory, for the shards of the index
    unread: int = 0  # listed shards that have no inventory
    settings: Mapping[str, Any] = field(default_factory=dict)
    optional: Sequence[MapStep] = ()  # of the stages that are computed because they are configured

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead], segmenter: Receipt, unread: int = 0) -> Index:
        """Return the index of a run over some shards."""
        every, error_maps = plan.map_steps(segmenter), plan.error_maps()
        steps = Steps(step for step in every if step.stage.name not in GRAPH.optional)
        return cls(
            ledger=plan.ledger,
            steps=steps,
            optional=[step for step in every if step.stage.name in GRAPH.optional],
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
        """The steps of this index, in order."""
        return Steps([self.error_maps, *self.steps, *self.optional])

    def units_of(self, step: MapStep) -> Sequence[Unit]:
        """Return the units of a step: of all samples, or of the supervision."""
        return self.supervised if step.stage.supervision_only else self.units

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of every stage of this index."""
        over_supervision = {self.error_maps.stage.name: self.error_maps.fingerprint}
        return self.steps.fingerprints | over_supervision | {TrainSegmenter.name: self.trained}

    @property
    def address(self) -> Address:
        """The address of this index: other bundles, or one of them made again, give another index."""
        return index_address(self._held(), VERSION, "index")

    def gaps(self) -> dict[str, Any]:
        """Return what is missing: unread shards, units without a bundle by stage, and their samples."""
        return self._gaps(self._held())

    def commit(self) -> Receipt:
        """Commit this index if it is new; return its receipt."""
        return self._commit(self._held())

    def publish(self) -> Publication:
        """Commit this index and that of the supervision if they are new, then move the pointer to them.

        The pointer states what is missing. It does not move if no sample is recorded.
        """
        held = self._held()
        receipt, gaps = self._commit(held), self._gaps(held)
        maps = SupervisionIndex(self.ledger, self.error_maps, self.supervised, self.selection).commit()
        index = IndexInfo.from_receipt(receipt)
        if not index.recorded:
            return Publication(receipt, gaps, moved=False)
        supervision = SupervisionPointer(
            index=parts_of(maps),
            shards=maps.file(SHARDS).name,
            receipt=maps.address.receipt_name,
            samples=SupervisionIndexInfo.from_receipt(maps).samples,
        )
        pointer = Pointer(
            index=parts_of(receipt),
            receipt=receipt.address.receipt_name,
            stages=self.fingerprints,
            samples=index.samples,
            gaps=gaps,
            settings=dict(self.settings),
            supervision=supervision,
            own={
                step.stage.own_index.name: OwnIndexOf(self.ledger, step, self.units).commit()
                for step in self.optional
                if step.stage.own_index is not None
            },
        )
        move_pointer(self.ledger, pointer)
        return Publication(receipt, gaps, moved=True)

    def _held(self) -> Held:
        """Return the present bundles."""
        over = [(step, self.units_of(step)) for step in (*self.steps, self.error_maps)]
        return Held(self.ledger, over, self.inventories)

    def _commit(self, held: Held) -> Receipt:
        address = index_address(held, VERSION, "index")
        return standing(self.ledger, address) or self._write(address, held)

    def _gaps(self, held: Held) -> dict[str, Any]:
        missing = {step.stage.name: held.missing(step.stage.name) for step in (*self.steps, self.error_maps)}
        for step in self.optional:
            missing[step.stage.name] = Held(self.ledger, [(step, self.units)]).missing(step.stage.name)
        without_codes = (self.units[number] for number in missing[self.steps.last.stage.name])
        gaps = {
            "shards": self.unread,
            "units": {name: len(numbers) for name, numbers in missing.items() if numbers},
            "samples": sum(unit.stop - unit.first for unit in without_codes),
        }
        return {name: value for name, value in gaps.items() if value}

    def _write(self, address: Address, held: Held) -> Receipt:
        started, attempt = time.time(), self.ledger.begin(address)
        writer = PartsWriter(
            ledger=self.ledger,
            steps=self.steps,
            error_maps=self.error_maps,
            units=self.units,
            supervised=self.supervised,
            selection=self.selection,
            held=held,
            version=VERSION,
        )
        parts = writer.put(attempt)
        attempt.put(INVENTORIES, json.dumps(list(self.inventories)).encode())
        attempt.put(CONTENTS, written(parts))
        samples, recorded = sum(part.rows for part in parts), sum(part.recorded for part in parts)
        info = IndexInfo(
            samples=samples, recorded=recorded, started=started, finished=time.time(), stages=self.fingerprints
        )
        return attempt.commit({}, info.plain())

    def _receipt(self, step: MapStep, unit: Unit) -> Receipt | None:
        return self.ledger.receipt(Address(step.stage.name, step.fingerprint, unit.name))


def read_index(ledger: Ledger, receipt: Receipt) -> list[dict[str, Any]]:
    """Return all rows of a published index."""
    parts = set(parts_of(receipt))
    return [
        row for entry in receipt.files if entry.name in parts for row in read_rows(ledger.read_entry(receipt, entry))
    ]


def read_inventories(ledger: Ledger, receipt: Receipt) -> dict[Shard, ReceiptHead]:
    """Return the shards of a published index, with the receipts of their inventories."""
    units = json.loads(ledger.read_file(receipt, INVENTORIES))
    heads = ledger.heads_at(Address(STAGE, FINGERPRINT, unit) for unit in units)
    return {shard_of(head): head for head in heads if head is not None}


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


def published_own(ledger: Ledger, stage: type[Stage]) -> Receipt | None:
    """Return the receipt of a stage's own index, None if it is not published or its bundle is gone.

    Raises:
        BundleError: the pointer is damaged.
    """
    pointer = read_pointer(ledger)
    if pointer is None or stage.own_index is None or stage.own_index.name not in pointer.own:
        return None
    return ledger.receipt(address_in(ledger, pointer.own[stage.own_index.name].receipt))


def published_receipts(ledger: Ledger) -> list[Receipt]:
    """Return the receipts of all indexes that the pointer leads to, without those whose bundles are gone.

    Raises:
        BundleError: the pointer is damaged.
    """
    pointer = read_pointer(ledger)
    names = sorted(pointer.receipts) if pointer is not None else ()
    receipts = (ledger.receipt(address_in(ledger, name)) for name in names)
    return [receipt for receipt in receipts if receipt is not None]
