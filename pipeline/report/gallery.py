"""Pictures of a run, drawn from commits: each one explains its sample and checks its bundle."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from infra.receipts import Ledger, ReceiptHead
from infra.stores.store import Store
from pipeline.data.reading import Cut, Reader, Recorded
from pipeline.data.units import Shard, Unit
from pipeline.publish.index import Index
from pipeline.publish.rows import figure
from pipeline.report.summary import OCCLUDED, PSNR_DB, Picture, Row
from stages.base.stage import Sample
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.invert import Invert
from stages.maps.reduction import fit_reduced, reduced
from stages.maps.region import crop, fit, to_uint8
from stages.maps.spaces import column
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps

PICTURES = 24
WORST = 6
"""Number of samples with the lowest PSNR shown in addition."""


@dataclass(frozen=True)
class Gallery:
    """Draws samples from their shards and bundles."""

    ledger: Ledger
    sources: Sequence[Store]
    index: Index
    shards: Mapping[Shard, ReceiptHead]
    viewer: Viewer
    image: ImageMember
    map_side_px: int | None  # longest side of maps

    def pictures(self, rows: Sequence[Row]) -> Iterator[tuple[Picture, float]]:
        """Yield some samples' pictures, each with the largest change by a zero edit."""
        bad = worst(rows)
        taken = {id(row) for row in bad}
        others = choose([row for row in rows if id(row) not in taken])
        of_unit: defaultdict[str, dict[str, Row]] = defaultdict(dict)
        for row in (*others, *bad):
            of_unit[row["unit"]][row["key"]] = row
        among_worst = {(row["unit"], row["key"]) for row in bad}
        reader = self._reader()
        for unit in self.index.units:
            for picture, change in self._pictures_of(reader, unit, of_unit.get(unit.name, {})):
                yield replace(picture, worst=(unit.name, picture.key) in among_worst), change

    def _reader(self) -> Reader:
        inventories = {shard: receipt.unit for shard, receipt in self.shards.items()}
        return Reader(self.ledger, self.sources, inventories, self.index.steps.last.selection, tolerant=True)

    @functools.cached_property
    def _records(self) -> list[Recorded]:
        """The data shown of each stage; units of supervision are cut differently from others."""
        steps = [Recorded(step.stage.name, step.fingerprint) for step in self.index.steps]
        of, cut = self.index.error_maps, Cut(self.index.selection, self.index.supervised)
        return [*steps, Recorded(ErrorMaps.name, of.fingerprint, cut, optional=True, rows=False, arrays={"image_LHW3"})]

    def _pictures_of(self, reader: Reader, unit: Unit, wanted: Mapping[str, Row]) -> Iterator[tuple[Picture, float]]:
        if not wanted:
            return
        listed = [sample for sample in reader.listed(unit) if sample.key in wanted]
        for _, sample in reader.read(unit, listed, self._records, self.image.candidates):
            if isinstance(sample, Sample) and sample.members:  # its shard is still in the input
                photograph_HW3 = self.image.picture(sample).pixels_HW3
                yield draw(sample, photograph_HW3, wanted[sample.key], self.viewer, map_side_px=self.map_side_px)


@torch.no_grad()
def draw(
    sample: Sample,
    photograph_HW3: NDArray[np.uint8],
    row: Row,
    viewer: Viewer,
    *,
    map_side_px: int | None,
) -> tuple[Picture, float]:
    """Return a sample's picture, made from its stored codes, and the largest change by a zero edit."""
    record, single = sample.records[Invert.name], sample.records.get(ErrorMaps.name)
    w_plus = record.row["w_plus"]
    assert isinstance(w_plus, np.ndarray)
    codes = unpack_codes(w_plus, record.arrays)
    viewer = replace(viewer, generator=tuned_generator(viewer.generator, record.arrays))
    image = viewer.picture(codes)
    edited = viewer.generator.edit(codes.w_plus, codes.deltas, codes.masks, torch.zeros_like(codes.w_plus))
    change = (crop(edited, viewer.region).clamp(-1, 1) - image).abs().max()
    mapped_13hw = fit_reduced(photograph_HW3, viewer.region, map_side_px)[None]
    kept = single.arrays.get("image_LHW3") if single is not None else None
    picture = Picture(
        key=sample.key,
        shard=sample.shard,
        role=row["role"],
        image_HW3=to_uint8(fit(photograph_HW3, viewer.region)[None])[0],
        predicted_LHW=sample.records[PredictMaps.name].arrays["error_LHW"].astype(np.float32),
        assignment_HW=record.arrays["assignment_HW"].astype(np.uint8),
        labels_HW=sample.records[RefineMaps.name].arrays["labels_HW"].astype(np.int32),
        trace=(record.arrays["trace_step"], record.arrays["trace_loss"]),
        sam_HW3=to_uint8(image)[0],
        error_HW=viewer.error_map(reduced(image, map_side_px), mapped_13hw)[0].float().numpy(),
        psnr_db=row[PSNR_DB],
        lpips=row[figure(Invert, "lpips")],
        w_plus_HW3=None if kept is None else kept[0].astype(np.uint8),
        w_plus_psnr_db=row.get(figure(ErrorMaps, f"psnr_db_{column(viewer.spaces[0])}")),
    )
    return picture, float(change)


def worst(rows: Sequence[Row], count: int = WORST) -> list[Row]:
    """Return up to `count` rows with the lowest PSNR, the lowest first; none if they would be more than half."""
    measured = [row for row in rows if row.get(PSNR_DB) is not None]
    return sorted(measured, key=lambda row: (row[PSNR_DB], row["key"]))[: min(count, len(measured) // 2)]


def choose(rows: Sequence[Row], count: int = PICTURES) -> list[Row]:
    """Return up to `count` rows: held-out and occluded ones first, then evenly from the others."""
    held_out = [row for row in rows if row["role"] == "held_out"]
    occluded = [row for row in held_out if row.get(OCCLUDED)]
    clean = [row for row in held_out if not row.get(OCCLUDED)]
    chosen = [*_evenly(occluded, count // 2), *_evenly(clean, count // 4)]
    return [*chosen, *_evenly([row for row in rows if row["role"] != "held_out"], count - len(chosen))]


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows, or all if there are fewer, spread over the whole sequence."""
    spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return [rows[i] for i in sorted(set(spread.tolist()))]
