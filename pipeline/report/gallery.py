"""Pictures of a run, drawn anew from what is committed: every one can be explained, and checks its bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from infra.errors import NotFoundError, ShardError
from infra.receipts import Ledger, ReceiptHead
from infra.shards.shards import RawSample, ShardSample
from infra.stores.store import Store
from pipeline.data.units import Shard, Unit, read_inventory, sample_of
from pipeline.publish.index import Index
from pipeline.report.summary import Picture, Row
from stages.base.stage import Record, Sample
from stages.images.image_member import ImageMember
from stages.inversion.inverter import Inverter
from stages.inversion.packing import unpack_codes
from stages.maps.reduction import fit_reduced, reduced
from stages.maps.region import crop, fit, to_uint8
from stages.maps.spaces import column

PICTURES = 24
WORST = 6
"""Samples with the lowest PSNR that are shown in addition."""


@dataclass(frozen=True)
class Gallery:
    """Draws samples from their shards and bundles."""

    ledger: Ledger
    sources: Sequence[Store]
    index: Index
    shards: Mapping[Shard, ReceiptHead]
    inverter: Inverter
    image: ImageMember
    map_side_px: int | None  # longest side of maps

    def pictures(self, rows: Sequence[Row]) -> Iterator[tuple[Picture, float]]:
        """Yield some samples' pictures, each with the largest change that an edit by nothing makes to it."""
        bad = worst(rows)
        taken = {id(row) for row in bad}
        others = choose([row for row in rows if id(row) not in taken])
        for unit in self.index.units:
            wanted = {row["key"]: row for row in (*others, *bad) if row["unit"] == unit.name}
            among_worst = {row["key"] for row in bad if row["unit"] == unit.name}
            for picture, change in self._pictures_of(unit, wanted) if wanted else ():
                yield replace(picture, worst=picture.key in among_worst), change

    def _pictures_of(self, unit: Unit, wanted: Mapping[str, Row]) -> Iterator[tuple[Picture, float]]:
        records = {step.stage.name: self.index.records(step, unit) for step in self.index.steps}
        single = self._supervised(unit, wanted)
        listed = [s for s in read_inventory(self.ledger, self.shards[unit.shard]) if s.key in wanted and not s.fault]
        listed = [s for s in listed if all(s.key in of_stage for of_stage in records.values())]
        for raw in read_if_there(self.sources, unit.shard, listed):
            found = {name: of_stage[raw.key] for name, of_stage in records.items()}
            sample = sample_of(raw, unit.shard.name, found)
            photograph_HW3, row = self.image.picture(sample).pixels_HW3, wanted[raw.key]
            one_space = single.get(raw.key)
            yield draw(sample, photograph_HW3, row, one_space, self.inverter, map_side_px=self.map_side_px)

    def _supervised(self, unit: Unit, wanted: Mapping[str, Row]) -> dict[str, Record]:
        """Return the error-map records of some samples; units of supervision are cut differently from others."""
        same_shard = [one for one in self.index.supervised if one.shard == unit.shard]
        records = [self.index.records(self.index.error_maps, one) for one in same_shard]
        return {key: record for of_unit in records for key, record in of_unit.items() if key in wanted}


def read_if_there(sources: Sequence[Store], shard: Shard, samples: Sequence[ShardSample]) -> list[RawSample]:
    """Return samples of a shard; none if the shard has left the input, or has changed, since."""
    if shard.address >= len(sources):
        return []
    try:
        return shard.read(sources, samples)
    except (NotFoundError, ShardError):
        return []


@torch.no_grad()
def draw(
    sample: Sample,
    photograph_HW3: NDArray[np.uint8],
    row: Row,
    single: Record | None,
    inverter: Inverter,
    *,
    map_side_px: int | None,
) -> tuple[Picture, float]:
    """Return a sample's picture, made from its codes as stored, and the largest change that a zero edit makes to it."""
    record = sample.records["invert"]
    w_plus = record.row["w_plus"]
    assert isinstance(w_plus, np.ndarray)
    codes = unpack_codes(w_plus, record.arrays)
    image = inverter.picture(codes)
    edited = inverter.generator.edit(codes.w_plus, codes.deltas, codes.masks, torch.zeros_like(codes.w_plus))
    change = (crop(edited, inverter.region).clamp(-1, 1) - image).abs().max()
    mapped_13hw = fit_reduced(photograph_HW3, inverter.region, map_side_px)[None]
    kept = single.arrays.get("image_LHW3") if single is not None else None
    picture = Picture(
        key=sample.key,
        shard=sample.shard,
        role=row["role"],
        image_HW3=to_uint8(fit(photograph_HW3, inverter.region)[None])[0],
        predicted_LHW=sample.records["predict_maps"].arrays["error_LHW"].astype(np.float32),
        assignment_HW=record.arrays["assignment_HW"].astype(np.uint8),
        labels_HW=sample.records["refine_maps"].arrays["labels_HW"].astype(np.int32),
        trace=(record.arrays["trace_step"], record.arrays["trace_loss"]),
        sam_HW3=to_uint8(image)[0],
        error_HW=inverter.error_map(reduced(image, map_side_px), mapped_13hw)[0].float().numpy(),
        psnr_db=row["invert.psnr_db"],
        lpips=row["invert.lpips"],
        w_plus_HW3=None if kept is None else kept[0].astype(np.uint8),
        w_plus_psnr_db=row.get(f"error_maps.psnr_db_{column(inverter.spaces[0])}"),
    )
    return picture, float(change)


def worst(rows: Sequence[Row], count: int = WORST) -> list[Row]:
    """Return up to `count` rows with the lowest PSNR, the lowest first; none where they would be more than half."""
    measured = [row for row in rows if row.get("invert.psnr_db") is not None]
    return sorted(measured, key=lambda row: (row["invert.psnr_db"], row["key"]))[: min(count, len(measured) // 2)]


def choose(rows: Sequence[Row], count: int = PICTURES) -> list[Row]:
    """Return up to `count` rows: held-out and occluded ones first, then evenly from the others."""
    held_out = [row for row in rows if row["role"] == "held_out"]
    occluded = [row for row in held_out if row.get("error_maps.occluded")]
    clean = [row for row in held_out if not row.get("error_maps.occluded")]
    chosen = [*_evenly(occluded, count // 2), *_evenly(clean, count // 4)]
    return [*chosen, *_evenly([row for row in rows if row["role"] != "held_out"], count - len(chosen))]


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows, or all if there are fewer, spread over the whole sequence."""
    spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return [rows[i] for i in sorted(set(spread.tolist()))]
