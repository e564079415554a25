"""The held-out samples of a run, read one after another from what is committed: predicted and achieved error maps."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.receipts import ReceiptHead
from infra.shards.shards import ShardSample
from infra.stores.store import Store
from pipeline.data.units import Shard, Unit, read_inventory, sample_of
from pipeline.publish.index import Index
from pipeline.report.gallery import read_if_there
from pipeline.report.map_quality import HeldOut
from pipeline.report.summary import Row
from stages.base.stage import Record
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
        """Yield those of the index's rows that are held out and that every stage recorded."""
        units = {unit.name: unit for unit in self.index.units}
        unit_of = {
            (unit.shard, row["key"]): unit
            for row in rows
            if row["role"] == "held_out" and row["outcome"] == "recorded" and (unit := units.get(row["unit"]))
        }
        records = functools.lru_cache(1)(self._records)  # a unit may lie across two units of supervision
        chosen = functools.lru_cache(1)(self._chosen)  # units of one shard are neighbours

        for supervised in self.index.supervised:
            listed = [s for s in chosen(supervised.shard)[supervised.first : supervised.stop] if not s.fault]
            wanted = [(s, unit_of[key]) for s in listed if (key := (supervised.shard, s.key)) in unit_of]
            achieved = self.index.records(self.index.error_maps, supervised) if wanted else {}
            for unit, pairs in itertools.groupby(wanted, key=lambda pair: pair[1]):
                predicted, refined = records(unit)
                known = achieved.keys() & predicted.keys() & refined.keys()
                samples = [sample for sample, _ in pairs if sample.key in known]
                occluders = self._occluders(unit.shard, samples)
                for sample, occluded_HW in zip(samples, occluders, strict=True):
                    yield HeldOut(
                        predicted[sample.key].arrays["error_LHW"].astype(np.float32),
                        achieved[sample.key].arrays["error_LHW"].astype(np.float32),
                        refined[sample.key].arrays["labels_HW"].astype(np.int32),
                        occluded_HW,
                    )

    def _chosen(self, shard: Shard) -> list[ShardSample]:
        """Return the samples that units of supervision count, faulty ones too."""
        selection = self.index.error_maps.selection
        listed = read_inventory(self.index.ledger, self.shards[shard])
        return [sample for sample in listed if selection.includes(shard.name, sample.key)]

    def _records(self, unit: Unit) -> tuple[Mapping[str, Record], Mapping[str, Record]]:
        predict_maps, refine_maps = self.index.steps[PredictMaps], self.index.steps[RefineMaps]
        return self.index.records(predict_maps, unit), self.index.records(refine_maps, unit)

    def _occluders(self, shard: Shard, samples: Sequence[ShardSample]) -> list[NDArray[np.bool_] | None]:
        stage = self.index.steps.stage(PredictMaps)
        if stage.truth is None:
            return [None] * len(samples)
        read = read_if_there(self.sources, shard, samples)
        if len(read) < len(samples):
            return [None] * len(samples)
        listed = (sample_of(raw, shard.name) for raw in read)
        return [
            known_occluder(sample, stage.truth, stage.image.geometry(sample), stage.region, stage.map_side_px)
            for sample in listed
        ]
