"""The examples of an encoder's training, read from commits: assignments, pictures from shards, and codes if any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from generators.latents import Codes
from infra.receipts import Address, Ledger, ReceiptHead
from infra.stores.storage import open_store
from infra.stores.store import Store
from pipeline.config import RunConfig
from pipeline.data.reading import Reader, Recorded
from pipeline.data.records import read_records
from pipeline.data.units import Selection, Shard, Unit
from pipeline.errors import RunError
from pipeline.plan.plan import Plan
from pipeline.plan.steps import Steps
from pipeline.publish.pointer import Pointer, read_pointer
from stages.base.errors import BadSampleError
from stages.base.stage import Record, Rejected, Sample
from stages.encoder.examples import Example
from stages.images.image_member import ImageMember
from stages.inversion.packing import unpack_codes
from stages.invert import Invert
from stages.maps.region import Region, fit, to_uint8
from stages.refine_maps import RefineMaps

ASSIGNMENT = "assignment_HW"


@dataclass(frozen=True)
class EarlierCodes:
    """The published codes of a run, found by unit: of the same shards, cut alike."""

    ledger: Ledger
    fingerprint: str  # of invert
    receipt: str  # of the published index
    generator: str  # digest of the generator that codes must belong to

    @classmethod
    def from_config(cls, config: RunConfig, generator: str) -> EarlierCodes | None:
        """Return the codes that a configuration names, None if it names none.

        Raises:
            RunError: nothing is published there.
        """
        encoder = config.train_encoder
        if encoder is None or encoder.codes is None:
            return None
        ledger = Ledger(open_store(encoder.codes, config.storage.output).patient())
        pointer: Pointer | None = read_pointer(ledger)
        if pointer is None or Invert.name not in pointer.stages:
            raise RunError(
                f"train_encoder.codes: {ledger.store.url} holds no published inversions; give the store of a run that "
                "has finished, or remove codes and lambda_codes"
            )
        return cls(ledger, pointer.stages[Invert.name], pointer.receipt, generator)

    def of_unit(self, unit: str, keys: set[str]) -> dict[str, Record]:
        """Return the inversions of a unit by key; empty if it has none."""
        receipt = self.ledger.receipt(Address(Invert.name, self.fingerprint, unit))
        return {} if receipt is None else read_records(self.ledger.read_file, receipt, keys)

    def codes(self, record: Record) -> Codes:
        """Return the codes of an inversion; raise `BadSampleError` if they belong to another generator."""
        if record.row["generator"] != self.generator:
            raise BadSampleError(
                f"its codes in {self.ledger.store.url} belong to the generator of SHA-256 {record.row['generator']}, "
                f"not to {self.generator}"
            )
        return unpack_codes(np.asarray(record.row["w_plus"]), record.arrays)


@dataclass(frozen=True)
class Assigned:
    """The images of a run that an encoder may learn from: its units, and the committed assignments."""

    ledger: Ledger
    sources: tuple[Store, ...]
    refine_maps: str  # their fingerprint
    committed: tuple[Unit, ...]
    inventories: Mapping[Shard, str]  # the inventory's unit of each shard
    supervision: Selection
    samples: Literal["supervision", "all"]
    image: ImageMember
    region: Region
    codes: EarlierCodes | None = None

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead], steps: Steps) -> Assigned:
        """Return the present images of a run.

        Raises:
            RunError: no image may be learnt from, or the codes that are named are not there.
        """
        step, settings = steps[RefineMaps], plan.config.train_encoder
        assert settings is not None
        done = plan.ledger.units(step.stage.name, step.fingerprint)
        units = plan.units(shards, step.selection)
        assigned = cls(
            ledger=plan.ledger,
            sources=plan.sources,
            refine_maps=step.fingerprint,
            committed=tuple(unit for unit in units if unit.name in done),
            inventories={shard: receipt.unit for shard, receipt in shards.items()},
            supervision=plan.supervision,
            samples=settings.samples,
            image=plan.image,
            region=plan.region,
            codes=EarlierCodes.from_config(plan.config, plan.generator.digest),
        )
        return replace(assigned, committed=tuple(filter(assigned.may_hold_any, assigned.committed))).checked()

    def checked(self) -> Assigned:
        """Return these images; raise `RunError` if there are none."""
        if not any(True for _ in self.images()):
            raise RunError(
                f"train_encoder finds no image with an assignment among its samples ({self.samples}): set "
                "train_encoder.samples to all, or change supervision.samples, share or held_out_share"
            )
        return self

    def images(self) -> Iterator[tuple[str, str]]:
        """Yield unit and key of every image that may be learnt from."""
        units = {unit.name: unit for unit in self.committed}
        for receipt in self.ledger.receipts(RefineMaps.name, self.refine_maps):
            if (unit := units.get(receipt.unit)) is not None:
                yield from ((unit.name, key) for key in receipt.recorded if self.may_learn_from(unit, key))

    def may_hold_any(self, unit: Unit) -> bool:
        """Return whether a unit's shard can hold images to learn from, judging by its name."""
        return self.samples == "all" or self.supervision.trains_on(unit.shard.name)

    def may_learn_from(self, unit: Unit, key: str) -> bool:
        """Return whether an image is among the samples, and not held out for evaluation."""
        role = self.supervision.role(unit.shard.name, key)
        return role == "supervision" or (self.samples == "all" and role != "held_out")


class AssignedExamples:
    """An `ExampleSource` over a run's assigned images; it reads only the bytes of selected samples from shards."""

    def __init__(self, assigned: Assigned) -> None:
        self.assigned = assigned
        self._by_name = {unit.name: unit for unit in assigned.committed}
        self._reader = Reader(assigned.ledger, assigned.sources, assigned.inventories)

    @property
    def units(self) -> Sequence[str]:
        """The committed units of assignments."""
        return list(self._by_name)

    @property
    def identity(self) -> str:
        """The assignments' fingerprint, and the published result that known codes come from."""
        codes = self.assigned.codes
        known = None if codes is None else (codes.fingerprint, codes.receipt)
        return json.dumps([self.assigned.refine_maps, known])

    def read(self, unit: str, wanted: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield the selected samples of a unit with their assignments and earlier inversions, in the shard's order.

        Raises:
            DamagedBundleError: the bundle of assignments is gone or damaged.
        """
        of_unit, assigned = self._by_name[unit], self.assigned
        listed = [
            sample
            for sample in self._reader.listed(of_unit)
            if wanted(sample.key) and assigned.may_learn_from(of_unit, sample.key)
        ]
        maps = Recorded(RefineMaps.name, assigned.refine_maps, rows=False, arrays={ASSIGNMENT})
        keys = {sample.key for sample in listed}
        earlier = {} if assigned.codes is None else assigned.codes.of_unit(unit, keys)
        for _, sample in self._reader.read(of_unit, listed, [maps], assigned.image.candidates):
            if isinstance(sample, Sample):
                known = {Invert.name: earlier[sample.key]} if sample.key in earlier else {}
                yield replace(sample, records={**sample.records, **known})

    def example(self, sample: Sample) -> Example | Rejected:
        """Return a decoded example of the region's size, or why there is none."""
        assigned = self.assigned
        assignment_HW = sample.records[RefineMaps.name].arrays[ASSIGNMENT].astype(np.uint8)
        try:
            pixels_HW3 = assigned.image.picture(sample).pixels_HW3
            image_HW3 = to_uint8(fit(pixels_HW3, assigned.region)[None])[0]
            earlier = sample.records.get(Invert.name)
            codes = None if earlier is None or assigned.codes is None else assigned.codes.codes(earlier)
        except BadSampleError as error:
            return Rejected(sample.key, str(error))
        return Example(sample.key, image_HW3, assignment_HW, codes)
