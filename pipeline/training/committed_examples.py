"""The examples of a training, read from what is committed: error maps from their bundles, images from the shards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.bundles import read_arrays
from infra.receipts import Address, Ledger, Receipt, ReceiptHead
from infra.shards.shards import RawSample, ShardSample
from infra.stores.store import Store
from pipeline.data.inventory import committed_samples
from pipeline.data.units import Selection, Shard, Unit, sample_of
from pipeline.jobs.map_job import ARRAYS
from pipeline.plan.plan import Plan
from stages.base.errors import BadSampleError
from stages.base.stage import Rejected
from stages.images.image_member import ImageMember
from stages.maps.reduction import fit_reduced, reduced_size
from stages.maps.region import Region, to_uint8
from stages.segmenter.examples import Example

ERROR_MAPS, MAPS = "error_maps", "error_LHW"
_INVENTORIES_KEPT = 8


@dataclass(frozen=True)
class Supervision:
    """Where the supervision of a run lies: its units, and those that are committed of them."""

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
    def of(cls, plan: Plan, shards: Mapping[Shard, ReceiptHead]) -> Supervision:
        """Return the supervision of a run as it is committed now."""
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
        for receipt in self.ledger.receipts(ERROR_MAPS, self.error_maps):
            if (unit := units.get(receipt.unit)) is not None:
                yield from ((unit.name, key) for key in receipt.recorded if self.may_train_on(unit, key))

    def may_train_on(self, unit: Unit, key: str) -> bool:
        """Return whether a sample is not held out for evaluation."""
        return self.selection.role(unit.shard.name, key) == "supervision"

    def receipt(self, unit: Unit) -> Receipt:
        """Return the receipt of a unit's error maps; raises `DamagedBundleError` if it is gone."""
        return self.ledger.required(Address(ERROR_MAPS, self.error_maps, unit.name))


class CommittedExamples:
    """An `ExampleSource` over a run's supervision; of shards it reads the bytes of those samples that are wanted."""

    def __init__(self, supervision: Supervision) -> None:
        self.supervision = supervision
        self._by_name = {unit.name: unit for unit in supervision.committed}
        self._listed = functools.lru_cache(_INVENTORIES_KEPT)(self._read_inventory)

    @property
    def units(self) -> Sequence[str]:
        """The committed units of error maps."""
        return list(self._by_name)

    @property
    def size(self) -> tuple[int, int]:
        """That of the maps."""
        return reduced_size(self.supervision.region.size, self.supervision.map_side_px)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The run's."""
        return self.supervision.spaces

    def read(self, unit: str, wanted: Callable[[str], bool]) -> list[Example | Rejected]:
        """Return the wanted examples of a unit, in the order of the shard."""
        of, supervision = self._by_name[unit], self.supervision
        receipt = supervision.receipt(of)
        keys = {key for key in receipt.recorded if supervision.may_train_on(of, key) and wanted(key)}
        if not keys:
            return []
        arrays = dict(read_arrays(supervision.ledger.read_file(receipt, ARRAYS), keys.__contains__, {MAPS}))
        chosen = [sample for sample in self._listed(of.shard) if sample.key in keys and sample.fault is None]
        raw = of.shard.read(supervision.sources, chosen)
        return [self._example(one, of.shard, arrays.get(one.key, {})) for one in raw]

    def _example(self, raw: RawSample, shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> Example | Rejected:
        if MAPS not in arrays:
            return Rejected(raw.key, f"error_maps recorded it without {MAPS}")
        try:
            image_HW3 = self.supervision.image.picture(sample_of(raw, shard.name)).pixels_HW3
        except BadSampleError as error:
            return Rejected(raw.key, str(error))
        image_3hw = fit_reduced(image_HW3, self.supervision.region, self.supervision.map_side_px)
        return Example(raw.key, to_uint8(image_3hw[None])[0], arrays[MAPS].astype(np.float16))

    def _read_inventory(self, shard: Shard) -> list[ShardSample]:
        return committed_samples(self.supervision.ledger, self.supervision.inventories[shard])
