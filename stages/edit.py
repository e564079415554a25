"""Edits of every inverted image along directions, each region only where its space allows (thesis Sec. 3.4)."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from generators.generator import Generator
from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.batched_worker import PREPARING, batched_worker
from stages.base.errors import BadSampleError
from stages.base.in_parts import ItemsInParts
from stages.base.stage import OwnIndex, Record, Rejected, Sample, Sizes, Stage, Value, Worker
from stages.editing.editor import Editor, Picture
from stages.editing.settings import (
    AnyDirection,
    EditOfCodes,
    EditSequence,
    Magnitudes,
    check_settings,
    edits_of,
    labels_of,
)
from stages.images.encoding import ImageFormat, Quality, encoded, extension_of
from stages.inversion.packing import stack_codes, unpack_codes
from stages.inversion.tuned import changes_in, tuned_generator
from stages.maps.change import change_by_space
from stages.maps.region import Region, to_uint8
from stages.maps.spaces import chosen_spaces, column

Encode = Callable[[NDArray[np.uint8]], "Future[bytes]"]

INVERTED = "invert"  # the stage whose records it reads
UNENCODED = 2
"""Edits of a batch whose images wait to be encoded while the next is computed."""


class Edit(Stage):
    """Edit every inverted image along directions, and keep the edited images.

    Records a file `NAME.MAGNITUDE.EXTENSION` for each edit; `edits`, JSON with direction, magnitude and file of each;
    `change_inside` and `change_outside` (float32 `[E, L]`), the mean absolute change of images in [0, 1] inside and
    outside each space's region, NaN where there are no such pixels; and the digest of the generator.
    """

    name: ClassVar[str] = "edit"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = (INVERTED,)
    keeps: ClassVar[frozenset[Literal["arrays", "files"]]] = frozenset({"files"})
    needs_members: ClassVar[bool] = False
    own_index: ClassVar[OwnIndex | None] = OwnIndex("edits")
    added: ClassVar[Mapping[str, object]] = {"published": False}

    generator: GeneratorSource
    region: Region | None = None  # active part of the generator's canvas; None is all of it
    spaces: tuple[str, ...] | None = None  # of the run, most editable first; None is all of the generator's
    directions: Annotated[tuple[AnyDirection, ...], Field(min_length=1)]
    """Directions from files, as {name: age, path: age.npy, layers: [0, 7]}, and moves to another class of a conditional
    generator, as {name: to-cat, to_class: 281} (docs/editing.md)."""
    magnitudes: Magnitudes = (-2.0, -1.0, 1.0, 2.0)  # of every direction that has none of its own
    sequences: tuple[EditSequence, ...] = ()
    """Several directions as one edit: {name: old-smile, parts: [{direction: age, magnitude: 2}, …]}."""
    format: ImageFormat = "webp"  # of the edited images
    quality: Quality = 90  # of WebP and JPEG
    batch: PositiveInt = 8  # images edited together, one edit at a time; halved where memory turns out too small
    published: bool = False
    """Use the formula of the authors' code instead, for comparison: soft masks then change a zero edit too."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        check_settings(self.directions, self.magnitudes, self.sequences)
        return self

    def check(self, generator: Generator) -> None:
        """Raise DirectionError unless every direction is there and fits the generator, which has every class."""
        self._edits(generator)

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return the bytes of uncompressed images."""
        return len(labels_of(self.directions, self.magnitudes, self.sequences)) * sizes.region_px * 3

    def index_columns(self) -> Mapping[str, type[str] | type[float]]:
        """Return member of the tar, direction, magnitude, and the changes inside and outside each space's region."""
        changes = [f"change_{where}_{space}" for where in ("inside", "outside") for space in self._columns]
        return {"member": str, "direction": str, "magnitude": float, **dict.fromkeys(changes, float)}

    def index_rows(self, key: str, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield a row for each edit."""
        for number, edit in enumerate(json.loads(row["edits"])):
            changes: dict[str, float | None] = {}
            for where in ("inside", "outside"):
                for space, change in zip(self._columns, row[f"change_{where}"][number], strict=True):
                    changes[f"change_{where}_{space}"] = None if np.isnan(change) else float(change)
            what = {"direction": edit["direction"], "magnitude": float(edit["magnitude"])}
            yield {"member": f"{key}.{edit['file']}", **what, **changes}

    @property
    def _columns(self) -> list[str]:
        assert self.spaces is not None, "a run gives its stages their spaces"
        return [column(space) for space in self.spaces]

    def _edits(self, generator: Generator) -> tuple[EditOfCodes, ...]:
        return edits_of(self.directions, self.magnitudes, self.sequences, generator)

    def setup(self, device: torch.device) -> Worker:
        """Load generator and directions."""
        generator = self.generator.load(device)
        region = (self.region or Region.whole(generator.resolution)).inside(generator.resolution)
        editor = Editor(generator, region, self.published)
        spaces = chosen_spaces(self.spaces, generator.spaces)
        edits = self._edits(generator)
        files = [f"{edit.label}.{extension_of(self.format)}" for edit in edits]
        encode = partial(encoded, kind=self.format, quality=self.quality)

        def edited(images: Sequence[_Inverted]) -> list[Record | Rejected]:
            of_images = replace(editor, generator=tuned_generator(generator, images[0].tuned))
            made = _Edited(images, of_images, edits, len(spaces))
            with ThreadPoolExecutor(PREPARING, "encode") as encoding:
                made.compute(lambda pixels_HW3: encoding.submit(encode, pixels_HW3))
            return [made.outcome(i, files) for i in range(len(images))]

        own = tuple(edit.name for edit in edits if edit.needs_classes)
        prepare = partial(_inverted, generator=generator, spaces=spaces, moved_from_own=own)
        in_parts = ItemsInParts(edited, "edits", "choose a smaller generator")

        def compute(images: Sequence[_Inverted]) -> list[Record | Rejected]:
            groups = itertools.groupby(images, key=lambda image: image.key if image.tuned else "")
            return [outcome for _, group in groups for outcome in in_parts(list(group))]  # tuned images one by one

        return batched_worker(prepare, compute, self.batch)


@dataclass(frozen=True)
class _Inverted:
    """An image's codes as stored, the space of each pixel, and its class if the inversion knew one."""

    key: str
    codes: Codes
    assignment_HW: NDArray[np.uint8]
    label: int | None
    tuned: Mapping[str, NDArray[np.generic]]  # the change of its generator; empty if it is the run's


def _inverted(sample: Sample, generator: Generator, spaces: Sequence[str], moved_from_own: Sequence[str]) -> _Inverted:
    """Return the codes of a sample.

    Args:
        sample: with its record of invert.
        generator: of the run.
        spaces: of the run.
        moved_from_own: names of the edits that need the class of the image.

    Raises:
        BadSampleError: its codes are not whole, or another generator's, or its class is needed and unknown.
    """
    record = sample.records[INVERTED]
    if record.row["generator"] != generator.digest:
        raise BadSampleError(
            f"inverted with the generator of SHA-256 {record.row['generator']}, got {generator.digest}; invert it again"
        )
    w_plus, assignment_HW = record.row["w_plus"], record.arrays["assignment_HW"].astype(np.uint8)
    assert isinstance(w_plus, np.ndarray)
    codes = unpack_codes(w_plus, record.arrays)
    used = [spaces[index] for index in np.unique(assignment_HW)]
    if lacking := [space for space in used if space in generator.feature_shapes and space not in codes.deltas]:
        raise BadSampleError(
            f"parts of it are assigned to {', '.join(lacking)}, and its bundle has no delta there; invert it again"
        )
    label = _label(record.row.get("label"), generator)
    if label is None and moved_from_own:
        raise BadSampleError(
            f"no class: {', '.join(dict.fromkeys(moved_from_own))} moves an image from its own class, and this one was "
            "inverted without; set label and invert again, or give from_class"
        )
    return _Inverted(sample.key, codes, assignment_HW, label, changes_in(record.arrays))


def _label(label: Value, generator: Generator) -> int | None:
    """Return the class that an inversion recorded; raise BadSampleError if the generator lacks it."""
    if label is None:
        return None
    if not isinstance(label, int) or not 0 <= label < generator.label_dim:
        raise BadSampleError(
            f"inverted as class {label}, and the generator has {generator.label_dim} classes; invert it again"
        )
    return label


class _Edited:
    """The edits of a batch: one at a time on the device, while the images of the last ones are encoded."""

    def __init__(self, images: Sequence[_Inverted], editor: Editor, edits: Sequence[EditOfCodes], spaces: int) -> None:
        self._images, self._editor, self._edits, self._spaces = images, editor, edits, spaces
        self._inside = np.zeros((len(images), len(edits), spaces), np.float32)
        self._outside = np.zeros_like(self._inside)
        self._files: list[list[Future[bytes]]] = [[] for _ in images]
        self._not_finite: list[list[str]] = [[] for _ in images]

    def compute(self, encode: Encode) -> None:
        """Compute every edit."""
        codes = stack_codes([image.codes for image in self._images], self._editor.generator.feature_shapes)
        assignment_NHW = torch.from_numpy(np.stack([image.assignment_HW for image in self._images]))
        assignment_NHW = assignment_NHW.to(self._editor.device)
        pictures = self._editor.pictures(codes, self._edits, [image.label for image in self._images])
        before, waiting = next(pictures), deque[list[Future[bytes]]]()
        self._note("the picture of its codes as stored", before)
        for number, (edit, after) in enumerate(zip(self._edits, pictures, strict=True)):
            self._note(f"edit {edit.label}", after)
            changes = change_by_space(after.image_N3HW, before.image_N3HW, assignment_NHW, self._spaces)
            self._inside[:, number], self._outside[:, number] = (change.cpu().numpy() for change in changes)
            begun = [encode(pixels_HW3) for pixels_HW3 in to_uint8(after.image_N3HW)]
            for files, file in zip(self._files, begun, strict=True):
                files.append(file)
            waiting.append(begun)
            if len(waiting) > UNENCODED:
                wait(waiting.popleft())

    def _note(self, what: str, picture: Picture) -> None:
        for i in (~picture.finite_N).nonzero().flatten().tolist():
            self._not_finite[i].append(what)

    def outcome(self, i: int, names: Sequence[str]) -> Record | Rejected:
        """Return the record of an image, all of whose files are encoded."""
        key = self._images[i].key
        if wrong := self._not_finite[i]:
            return Rejected(key, f"{wrong[0]} is not finite; lower the magnitude, or fit the direction again")
        listed = [
            {"direction": edit.name, "magnitude": edit.magnitude, "file": name}
            for edit, name in zip(self._edits, names, strict=True)
        ]
        row = {
            "edits": json.dumps(listed),
            "change_inside": self._inside[i],
            "change_outside": self._outside[i],
            "generator": self._editor.generator.digest,
        }
        files = {name: file.result() for name, file in zip(names, self._files[i], strict=True)}
        return Record(key, row, files=files)
