"""Edited images of a run, read from commits: those that the report shows, and those whose true edits are known."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from generators.latents import Codes
from infra.receipts import ReceiptHead
from infra.stores.store import Store
from pipeline.data.reading import Cut, Reader, Recorded
from pipeline.data.units import Shard
from pipeline.plan.steps import MapStep
from pipeline.publish.index import Index
from pipeline.report.edit_truth import EditMeasure, EditTruth, TrueEdits, measured, read_true_edits, summarised
from pipeline.report.summary import OCCLUDED, Row
from stages.base.stage import Sample
from stages.edit import Edit
from stages.editing.editor import Editor
from stages.editing.settings import EditOfCodes, edits_of
from stages.error_maps import ErrorMaps
from stages.images.decoding import decode_picture
from stages.images.image_member import ImageMember
from stages.inversion.packing import unpack_codes
from stages.inversion.single import unpack_single
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.invert import Invert
from stages.maps.region import fit, to_uint8
from stages.maps.spaces import column
from stages.maps.truth import known_occluder
from stages.predict_maps import PredictMaps

SAM_METHOD = "sam"
PICTURES = 8
"""Number of images of the interactive page."""
MEASURED = 64
"""Number of images whose edits are compared with the truth."""


@dataclass(frozen=True)
class EditedImage:
    """An image as one edit leaves it, by method: `[H, W, 3]` uint8."""

    direction: str
    magnitude: float
    by_method: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class EditedPicture:
    """One sample with its edits: the input, its invertibility map in the first space, its assignment, and images.

    `unedited` holds the reconstructions by method; a method is "sam" or a space that the image is inverted in alone.
    """

    key: str
    shard: str
    image_HW3: NDArray[np.uint8]
    predicted_HW: NDArray[np.float32]
    assignment_HW: NDArray[np.uint8]
    unedited: Mapping[str, NDArray[np.uint8]]
    edits: tuple[EditedImage, ...]

    def along(self, direction: str) -> list[EditedImage]:
        """Return the images along a direction, with the unedited one at 0, by magnitude."""
        zero = EditedImage(direction, 0.0, self.unedited)
        edited = [edit for edit in self.edits if edit.direction == direction and edit.magnitude != 0]
        return sorted([zero, *edited], key=lambda edit: edit.magnitude)

    @property
    def directions(self) -> list[str]:
        """The names of directions and sequences, in the order of the configuration."""
        return list(dict.fromkeys(edit.direction for edit in self.edits))


@dataclass(frozen=True)
class EditedSamples:
    """Reads samples with their edited images and the codes that these came from."""

    index: Index
    sources: Sequence[Store]
    shards: Mapping[Shard, ReceiptHead]
    viewer: Viewer
    image: ImageMember
    occluder: str | None = None  # member that masks the known occluder
    truth: str | None = None  # member with the true images of edits

    def pictures(self, rows: Sequence[Row], count: int = PICTURES) -> list[EditedPicture]:
        """Return some samples that are edited, in the order of the rows."""
        if self._step is None:
            return []
        found = {(row["unit"], sample.key): (row, sample) for row, sample in self._read(rows[:count], files=True)}
        ordered = [found[row["unit"], row["key"]] for row in rows[:count] if (row["unit"], row["key"]) in found]
        return [self._picture(row, sample) for row, sample in ordered if Edit.name in sample.records]

    def against_truth(self, rows: Sequence[Row]) -> EditTruth | None:
        """Return how close edits of the occluded ones come to the truth; None where it is not known."""
        if self._step is None or self.truth is None:
            return None
        occluded = [row for row in rows if row["outcome"] == "recorded" and row.get(OCCLUDED)]
        measures, samples = list[EditMeasure](), 0
        for _, sample in self._read(occluded[:MEASURED], files=False):
            if (true := self._true_edits(sample)) is not None:
                by_method = self._editors(sample)
                measures += measured(by_method, self._codes(sample), self._edits, true)
                samples += 1
        return summarised(measures, samples)

    @functools.cached_property
    def _step(self) -> MapStep | None:
        """The step that edits; None if no edits are configured."""
        return self.index.every_step.get(Edit)

    @functools.cached_property
    def _editor(self) -> Editor:
        return Editor(self.viewer.generator, self.viewer.region, published=self._stage.published)

    @property
    def _stage(self) -> Edit:
        assert self._step is not None
        stage = self._step.stage
        assert isinstance(stage, Edit)
        return stage

    @functools.cached_property
    def _edits(self) -> tuple[EditOfCodes, ...]:
        stage = self._stage
        return edits_of(stage.directions, stage.magnitudes, stage.sequences, self.viewer.generator)

    def _read(self, rows: Sequence[Row], *, files: bool) -> Iterator[tuple[Row, Sample]]:
        """Yield those of some rows whose shards and bundles are there, unit by unit."""
        assert self._step is not None
        of_error_maps, edit = self.index.error_maps, self._step
        inventories = {shard: receipt.unit for shard, receipt in self.shards.items()}
        reader = Reader(self.index.ledger, self.sources, inventories, self.index.steps.last.selection, tolerant=True)
        cut = Cut(self.index.selection, self.index.supervised)
        records = [
            *(Recorded(step.stage.name, step.fingerprint) for step in self.index.steps),
            Recorded(ErrorMaps.name, of_error_maps.fingerprint, cut, optional=True, rows=False),
            *([Recorded(Edit.name, edit.fingerprint, optional=True, arrays=(), files=True)] if files else []),
        ]
        wanted: defaultdict[str, dict[str, Row]] = defaultdict(dict)
        for row in rows:
            wanted[row["unit"]][row["key"]] = row
        for unit in self.index.units:
            if not (of_unit := wanted.get(unit.name)):
                continue
            listed = [sample for sample in reader.listed(unit) if sample.key in of_unit]
            for _, sample in reader.read(unit, listed, records, self._members):
                if isinstance(sample, Sample) and sample.members:
                    yield of_unit[sample.key], sample

    def _members(self, extensions: Collection[str]) -> Collection[str]:
        known = {name for name in (self.occluder, self.truth) if name is not None}
        return {*self.image.candidates(extensions), *known}

    def _codes(self, sample: Sample) -> dict[str, Codes]:
        """Return the codes of a sample by method."""
        record, single = sample.records[Invert.name], sample.records.get(ErrorMaps.name)
        w_plus = record.row["w_plus"]
        assert isinstance(w_plus, np.ndarray)
        alone = {} if single is None else unpack_single(single.arrays)
        return {SAM_METHOD: unpack_codes(w_plus, record.arrays)} | {
            column(space): codes for space, codes in alone.items()
        }

    def _editors(self, sample: Sample) -> dict[str, Editor]:
        """Return the editor of each method: SAM may have tuned the generator to the image, a space alone has not."""
        tuned = tuned_generator(self.viewer.generator, sample.records[Invert.name].arrays)
        alone = {column(space): self._editor for space in self.viewer.spaces}
        return {SAM_METHOD: replace(self._editor, generator=tuned)} | alone

    def _picture(self, row: Row, sample: Sample) -> EditedPicture:
        record, codes = sample.records[Edit.name], self._codes(sample)
        first = column(self.viewer.spaces[0])
        alone = {first: codes[first]} if first in codes else {}
        sam = self._editors(sample)[SAM_METHOD].reconstruction(codes[SAM_METHOD])
        unedited = {SAM_METHOD: to_uint8(sam.image_N3HW)[0]}
        rendered: dict[str, NDArray[np.uint8]] = {}  # in the first space alone, by label
        for of_alone in alone.values():
            before, pictures = self._editor.pictures_of_one(of_alone, self._edits, _class_of(sample))
            unedited[first] = to_uint8(before.image_N3HW)[0]
            for edit, picture in zip(self._edits, pictures, strict=True):
                rendered[edit.label] = to_uint8(picture.image_N3HW)[0]
        edits = json.loads(str(record.row["edits"]))
        images = []
        for edit in edits:
            label = edit["file"].rpartition(".")[0]
            by_method = {
                SAM_METHOD: decode_picture(record.files[edit["file"]], f"{sample.key}.{edit['file']}").pixels_HW3
            }
            by_method |= {first: rendered[label]} if label in rendered else {}
            images.append(EditedImage(edit["direction"], float(edit["magnitude"]), by_method))
        photograph_HW3 = self.image.picture(sample).pixels_HW3
        return EditedPicture(
            key=sample.key,
            shard=sample.shard,
            image_HW3=to_uint8(fit(photograph_HW3, self.viewer.region)[None])[0],
            predicted_HW=sample.records[PredictMaps.name].arrays["error_LHW"][0].astype(np.float32),
            assignment_HW=sample.records[Invert.name].arrays["assignment_HW"].astype(np.uint8),
            unedited=unedited,
            edits=tuple(images),
        )

    def _true_edits(self, sample: Sample) -> TrueEdits | None:
        if self.truth is None or self.truth not in sample.members:
            return None
        picture = self.image.picture(sample)
        occluded_HW = known_occluder(sample, self.occluder, picture.geometry, self.viewer.region)
        if occluded_HW is None:
            return None
        images = read_true_edits(sample.members[self.truth], f"{sample.key}.{self.truth}")
        return TrueEdits(sample.key, picture.pixels_HW3, occluded_HW, images, _class_of(sample))


def _class_of(sample: Sample) -> int | None:
    """Return the class that the inversion of a sample recorded."""
    label = sample.records[Invert.name].row.get("label")
    return None if label is None else int(str(label))
