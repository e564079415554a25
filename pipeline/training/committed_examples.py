"""The examples of a training, read from commits: error maps from their bundles, images from the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.receipts import Ledger, ReceiptHead
from infra.stores.store import Store
from pipeline.data.reading import Reader, Recorded
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.plan import Plan
from stages.base.errors import BadSampleError
from stages.base.stage import Rejected, Sample
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.maps.reduction import fit_reduced, reduced_size
from stages.maps.region import Region, to_uint8
from stages.segmenter.examples import Example

MAPS = "error_LHW"


@dataclass(frozen=True)
class Supervision:
    """The supervision of a run: its units, and the committed ones."""

    ledger: Ledger
    sources: tuple[Store, ...]
    error_maps: str  # their fingerprint
    committed: tuple[Unit, ...]
    inventories: Mapping[Shard, str]  # the inventory's unit of each shard
    selection: Selection
    image: ImageMember
    region: Region
    map_side_px: int | None
    spaces: tuple[str, ...]

    @classmethod
    def from_plan(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> Supervision:
        """Return the present supervision of a run."""
        step = plan.error_maps()
        done = plan.ledger.units(step.stage.name, step.fingerprint)
        return cls(
            ledger=plan.ledger,
            sources=plan.sources,
            error_maps=step.fingerprint,
            committed=tuple(unit for unit in plan.units(shards, step.selection) if unit.name in done),
            inventories={shard: receipt.unit for shard, receipt in shards.items()},
            selection=step.selection,
            image=plan.image,
            region=plan.region,
            map_side_px=plan.config.maps.side_px,
            spaces=plan.spaces,
        )

    def samples(self) -> Iterator[tuple[str, str]]:
        """Yield unit and key of every sample that may be trained on: recorded, and not held out for evaluation."""
        units = {unit.name: unit for unit in self.committed}
        for receipt in self.ledger.receipts(ErrorMaps.name, self.error_maps):
            if (unit := units.get(receipt.unit)) is not None:
                yield from ((unit.name, key) for key in receipt.recorded if self.may_train_on(unit, key))

    def may_train_on(self, unit: Unit, key: str) -> bool:
        """Return whether a sample is not held out for evaluation."""
        return self.selection.role(unit.shard.name, key) == "supervision"

    def reader(self) -> Reader:
        """Return a reader of its units."""
        return Reader(self.ledger, self.sources, self.inventories, self.selection)

    def read(self, reader: Reader, unit: Unit, wanted: Callable[[str], bool]) -> Iterator[Sample]:
        """Yield the selected samples of a unit that may be trained on, with their maps, in the order of the shard.

        Raises `DamagedBundleError` if its bundle is gone or damaged.
        """
        listed = [s for s in reader.listed(unit) if wanted(s.key) and self.may_train_on(unit, s.key)]
        maps = Recorded(ErrorMaps.name, self.error_maps, rows=False, arrays={MAPS})
        found = reader.read(unit, listed, [maps], self.image.candidates)
        return (sample for _, sample in found if isinstance(sample, Sample))


class CommittedExamples:
    """An `ExampleSource` over a run's supervision; it reads only the bytes of selected samples from shards."""

    def __init__(self, supervision: Supervision) -> None:
        self.supervision = supervision
        self._by_name = {unit.name: unit for unit in supervision.committed}
        self._reader = supervision.reader()

    @property
    def units(self) -> Sequence[str]:
        """The committed units of error maps."""
        return list(self._by_name)

    @property
    def size(self) -> tuple[int, int]:
        """The size of the maps."""
        return reduced_size(self.supervision.region.size, self.supervision.map_side_px)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of the run."""
        return self.supervision.spaces

    def read(self, unit: str, wanted: Callable[[str], bool]) -> list[Example | Rejected]:
        """Return the selected examples of a unit, in the order of the shard."""
        return [self._example(sample) for sample in self.supervision.read(self._reader, self._by_name[unit], wanted)]

    def _example(self, sample: Sample) -> Example | Rejected:
        maps = sample.records[ErrorMaps.name].arrays
        if MAPS not in maps:
            return Rejected(sample.key, f"{ErrorMaps.name} recorded it without {MAPS}")
        try:
            image_HW3 = self.supervision.image.picture(sample).pixels_HW3
        except BadSampleError as error:
            return Rejected(sample.key, str(error))
        image_3hw = fit_reduced(image_HW3, self.supervision.region, self.supervision.map_side_px)
        return Example(sample.key, to_uint8(image_3hw[None])[0], maps[MAPS].astype(np.float16))
