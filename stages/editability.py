"""How well stored codes can be edited: proxies for what the thesis shows by pictures (Sec. 4.2, Fig. 3.2, 4.5, 4.6).

For every edit, the same edit of samples that the generator draws is the reference:

- strength: the change of an image's features along the mean change of the samples' features, over the length of that
  change; 1 is as strong as on samples on average, 0 nothing, negative the other way;
- leakage: the mean change of the pixels that should stay, over the mean change of all pixels of samples;
- realism: the distance of a sample from its nearest other sample, over that of the edited image, by features; samples
  have 1 on average or a little more.

`editability` of an image is its strength times 1 minus its leakage, each the mean over edits, clipped to [0, 1].
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from generators.directions.sampling import seeded_w
from generators.generator import Generator
from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.batched_worker import batched_worker
from stages.base.errors import SettingError
from stages.base.stage import Record, Sample, Sizes, Stage, Worker
from stages.editing.editor import Editor
from stages.editing.settings import AnyDirection, EditOfCodes, EditSequence, Magnitudes, edits_of
from stages.editing.true_images import read_true_images
from stages.images.image_member import ImageMember
from stages.inversion.packing import stack_codes, unpack_codes
from stages.inversion.tuned import changes_in, tuned_generator
from stages.maps.region import Region, fit
from stages.perceptual.distance import Perceptual
from stages.perceptual.source import PerceptualSource

INVERTED, REFINED = "invert", "refine_maps"  # stages whose records it reads
GRID = 8
"""Side of the grid of features on which a change is compared: it keeps where something moved."""
VISIBLE = 1 / 255
"""The smallest change of a true edit that counts, of images in [-1, 1]: half a level."""


class Editability(Stage):
    """Measure the edits of an image's stored codes.

    The pixels that should stay are those that the true edit (`truth`) leaves as they are; where it is not known, those
    that the maps assign to another space than the first. Without such pixels, nothing is known of the leakage.

    Records `strength`, `leakage` (null if unknown), `realism` and `editability`, the float32 arrays of the first three
    by edit (`strength_E`, …; NaN if unknown), `edits` (JSON, their labels), and the digests of generator and distance.
    """

    name: ClassVar[str] = "editability"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = (INVERTED, REFINED)
    keeps: ClassVar[frozenset[Literal["arrays", "files"]]] = frozenset()
    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"leakage": float}

    generator: GeneratorSource
    perceptual: PerceptualSource
    region: Region | None = None
    image: ImageMember = ImageMember()
    directions: Annotated[tuple[AnyDirection, ...], Field(min_length=1)]  # as of `edit`
    magnitudes: Magnitudes = (-1.0, 1.0)
    sequences: tuple[EditSequence, ...] = ()
    truth: str | None = None  # member of a sample with the true images of edits
    draws: PositiveInt = 128  # samples of the generator
    seed: NonNegativeInt = 0  # of the first sample
    batch: PositiveInt = 8  # images edited together

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return nothing: there are rows only."""
        return 0

    def setup(self, device: torch.device) -> Worker:
        """Load the networks, and edit the samples of the generator unless this process has just done so."""
        reference = _reference(self, device)

        def prepare(sample: Sample) -> _Image:
            return self._prepared(sample, reference)

        def compute(images: Sequence[_Image]) -> Iterator[Record]:
            for _, group in itertools.groupby(images, key=lambda image: image.key if image.tuned else ""):
                yield from _records(list(group), reference)

        return batched_worker(prepare, compute, self.batch)

    def edits(self, generator: Generator) -> tuple[EditOfCodes, ...]:
        """Return the edits that are measured: those that need no class of an image.

        Raises:
            DirectionError: a direction is missing or does not fit the generator.
            SettingError: there is no such edit.
        """
        every = edits_of(self.directions, self.magnitudes, self.sequences, generator)
        edits = tuple(edit for edit in every if not edit.needs_classes)
        if not edits:
            raise SettingError("edit.directions: all of them need the class of an image; add one that does not")
        return edits

    def _prepared(self, sample: Sample, reference: _Reference) -> _Image:
        record = sample.records[INVERTED]
        w_plus = record.row["w_plus"]
        assert isinstance(w_plus, np.ndarray)
        stays = dict[str, NDArray[np.bool_]]()
        if self.truth is not None and self.truth in sample.members:
            images = read_true_images(sample.members[self.truth], f"{sample.key}.{self.truth}")
            before = fit(self.image.picture(sample).pixels_HW3, reference.editor.region)
            for label, image in images.items():
                change_3HW = (fit(image, reference.editor.region) - before).abs()
                stays[label] = (change_3HW.amax(0) <= VISIBLE).numpy()
        else:
            elsewhere_HW = np.asarray(sample.records[REFINED].arrays["assignment_HW"] != 0)
            stays = {edit.label: elsewhere_HW for edit in reference.edits}
        return _Image(sample.key, unpack_codes(w_plus, record.arrays), changes_in(record.arrays), stays)


@dataclass(frozen=True)
class _Image:
    """An image: its codes as stored, the change of its generator, and by edit the pixels that should stay."""

    key: str
    codes: Codes
    tuned: Mapping[str, NDArray[np.generic]]
    stays: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class _Reference:
    """Edits of samples: by edit the mean change of features `[D]` and the mean change of pixels.

    `features_MF` are those of the samples, and `nearest` the mean distance of one from its nearest other one.
    """

    editor: Editor
    perceptual: Perceptual
    edits: tuple[EditOfCodes, ...]
    change_ED: Tensor
    pixels_E: Tensor
    features_MF: Tensor
    nearest: float

    def grid(self, image_N3HW: Tensor) -> Tensor:
        """Return the last layer of features on a grid, `[N, D]`."""
        layer = self.perceptual.features(image_N3HW).layers[-1]
        side = (min(GRID, layer.shape[2]), min(GRID, layer.shape[3]))
        return F.adaptive_avg_pool2d(layer, side).flatten(1)

    def whole(self, image_N3HW: Tensor) -> Tensor:
        """Return the mean features of all layers, `[N, F]`."""
        return whole_features(self.perceptual, image_N3HW)


def whole_features(perceptual: Perceptual, image_N3HW: Tensor) -> Tensor:
    """Return the mean of each channel of each layer, `[N, F]`."""
    return torch.cat([layer.mean(dim=(2, 3)) for layer in perceptual.features(image_N3HW).layers], dim=1)


@functools.lru_cache(maxsize=1)
def _reference(stage: Editability, device: torch.device) -> _Reference:
    """Return the edits of samples; a worker measures one method after another, and all have the same ones."""
    generator, perceptual = stage.generator.load(device), stage.perceptual.load(device)
    region = (stage.region or Region.whole(generator.resolution)).inside(generator.resolution)
    editor = Editor(generator, region)
    edits = stage.edits(generator)
    empty = torch.zeros(0)
    unknown = _Reference(editor, perceptual, edits, empty, empty, empty, 1.0)
    change, pixels, features = [], [], []
    for w in seeded_w(generator, range(stage.seed, stage.seed + stage.draws)):
        for part in w.split(stage.batch):
            pictures = editor.pictures(Codes(part), edits)
            before = next(pictures).image_N3HW
            features.append(unknown.whole(before))
            grid = unknown.grid(before)
            after = [picture.image_N3HW for picture in pictures]
            change.append(torch.stack([unknown.grid(image) - grid for image in after]))
            pixels.append(torch.stack([_change(image, before).mean(dim=(1, 2)) for image in after]))
    features_MF = torch.cat(features)
    distance_MM = torch.cdist(features_MF, features_MF).fill_diagonal_(torch.inf)
    return replace(
        unknown,
        change_ED=torch.cat(change, dim=1).mean(1),
        pixels_E=torch.cat(pixels, dim=1).mean(1),
        features_MF=features_MF,
        nearest=float(distance_MM.amin(1).mean()) if len(features_MF) > 1 else 1.0,
    )


@torch.no_grad()
def _records(images: Sequence[_Image], reference: _Reference) -> Iterator[Record]:
    """Yield the records of images of one generator."""
    generator = reference.editor.generator
    editor = replace(reference.editor, generator=tuned_generator(generator, images[0].tuned))
    codes = stack_codes([image.codes for image in images], generator.feature_shapes)
    pictures = editor.pictures(codes, reference.edits)
    before = next(pictures).image_N3HW
    grid = reference.grid(before)
    strength, leakage, realism = [], [], []
    for number, (edit, picture) in enumerate(zip(reference.edits, pictures, strict=True)):
        after = picture.image_N3HW
        strength.append(along(reference.grid(after) - grid, reference.change_ED[number]))
        change_NHW = _change(after, before).cpu()
        of_samples = float(reference.pixels_E[number])
        leakage.append(
            torch.stack([_mean(change_NHW[i], image.stays.get(edit.label)) for i, image in enumerate(images)])
        )
        leakage[-1] /= of_samples
        nearest_N = torch.cdist(reference.whole(after), reference.features_MF).amin(1)
        realism.append(reference.nearest / nearest_N.clamp_min(1e-12))
    by_edit = [torch.stack(values).float().cpu().numpy() for values in (strength, leakage, realism)]
    labels = json.dumps([edit.label for edit in reference.edits])
    for i, image in enumerate(images):
        row = summary_of(*(values_EN[:, i] for values_EN in by_edit))
        digests = {"generator": generator.digest, "perceptual": reference.perceptual.digest}
        yield Record(image.key, {**row, "edits": labels, **digests})


def along(change_ND: Tensor, reference_D: Tensor) -> Tensor:
    """Return how far changes go along a reference, `[N]`: 1 for the reference itself; 0 if that is empty."""
    length = reference_D.square().sum()
    return change_ND @ reference_D / length if float(length) > 0 else torch.zeros(len(change_ND))


def summary_of(
    strength_E: NDArray[np.float32], leakage_E: NDArray[np.float32], realism_E: NDArray[np.float32]
) -> dict[str, Any]:
    """Return the row of an image: means over edits, and its editability. Leakage that is unknown counts as none."""
    known = leakage_E[np.isfinite(leakage_E)]
    leakage = float(known.mean()) if known.size else None
    strength = float(strength_E.mean())
    kept = 1.0 - min(1.0, leakage or 0.0)
    return {
        "strength": strength,
        "leakage": leakage,
        "realism": float(realism_E.mean()),
        "editability": min(1.0, max(0.0, strength)) * kept,
        "strength_E": strength_E,
        "leakage_E": leakage_E,
        "realism_E": realism_E,
    }


def _change(after_N3HW: Tensor, before_N3HW: Tensor) -> Tensor:
    """Return the mean absolute change of images in [0, 1], `[N, H, W]`."""
    return (after_N3HW - before_N3HW).abs().mean(1) / 2


def _mean(change_HW: Tensor, stays_HW: NDArray[np.bool_] | None) -> Tensor:
    if stays_HW is None or not stays_HW.any():
        return torch.tensor(torch.nan)
    return change_HW[torch.from_numpy(stays_HW)].mean()
