"""The held-out samples of a run, read from commits one after the other: predicted and achieved error maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.receipts import ReceiptHead
from infra.stores.store import Store
from pipeline.data.reading import Cut, Reader, Recorded, no_members
from pipeline.data.units import Shard
from pipeline.publish.index import Index
from pipeline.report.map_quality import HeldOut
from pipeline.report.summary import Row
from stages.base.stage import Sample
from stages.error_maps import ErrorMaps
from stages.maps.truth import known_occluder
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps


@dataclass(frozen=True)
class HeldOutSamples:
    """Reads the held-out slice of the supervision; of each stage, one unit at a time is in memory."""

    index: Index
    sources: Sequence[Store]
    shards: Mapping[Shard, ReceiptHead]

    def read(self, rows: Sequence[Row]) -> Iterator[HeldOut]:
        """Yield the rows of the index that are held out and that every stage recorded."""
        keys: defaultdict[str, set[str]] = defaultdict(set)  # by shard
        for row in rows:
            if row["role"] == "held_out" and row["outcome"] == "recorded":
                keys[_slug(row["unit"])].add(row["key"])
        predict, refine = self.index.steps[PredictMaps], self.index.steps[RefineMaps]
        of_error_maps, everything = self.index.error_maps, Cut(predict.selection, self.index.units)
        inventories = {shard: receipt.unit for shard, receipt in self.shards.items()}
        reader = Reader(self.index.ledger, self.sources, inventories, of_error_maps.selection, tolerant=True)
        records = [
            Recorded(ErrorMaps.name, of_error_maps.fingerprint, rows=False, arrays={"error_LHW"}),
            Recorded(PredictMaps.name, predict.fingerprint, everything, rows=False, arrays={"error_LHW"}),
            Recorded(RefineMaps.name, refine.fingerprint, everything, rows=False, arrays={"labels_HW"}),
        ]
        for unit in self.index.supervised:
            wanted = keys[unit.shard.slug]
            if wanted and (listed := [s for s in reader.listed(unit) if s.key in wanted]):
                for _, sample in reader.read(unit, listed, records, self._members):
                    if isinstance(sample, Sample):
                        yield self._held_out(sample)

    def _members(self, extensions: Collection[str]) -> Collection[str]:
        """Select the known occluder, and the picture whose geometry it has."""
        stage = self.index.steps.stage(PredictMaps)
        return no_members(extensions) if stage.truth is None else {stage.truth, *stage.image.candidates(extensions)}

    def _held_out(self, sample: Sample) -> HeldOut:
        return HeldOut(
            sample.records[PredictMaps.name].arrays["error_LHW"].astype(np.float32),
            sample.records[ErrorMaps.name].arrays["error_LHW"].astype(np.float32),
            sample.records[RefineMaps.name].arrays["labels_HW"].astype(np.int32),
            self._occluder(sample),
        )

    def _occluder(self, sample: Sample) -> NDArray[np.bool_] | None:
        stage = self.index.steps.stage(PredictMaps)
        if stage.truth is None or not sample.members:  # or the shard is no longer in the input
            return None
        geometry = stage.image.geometry(sample)
        return known_occluder(sample, stage.truth, geometry, stage.region, stage.map_side_px)


def _slug(unit: str) -> str:
    """Return the part of a unit's name that identifies its shard."""
    return unit.rsplit("-", 2)[0]
