"""The pictures of a study: photographs, and what each method makes of them, from committed codes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generators.generator import Generator
from pipeline.data.reading import Reader, Recorded, no_members
from pipeline.data.stores import Stores
from pipeline.data.units import Selection, Unit
from pipeline.errors import RunError
from pipeline.evaluation.compute import committed
from pipeline.evaluation.methods import Compared
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep
from pipeline.study.design import Subject
from pipeline.study.settings import Study, config_of
from stages.base.device import process_device
from stages.base.stage import Record, Sample, sample_seed
from stages.edit import Edit
from stages.editing.editor import Editor
from stages.editing.settings import EditOfCodes, edits_of
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.invert import Invert
from stages.maps.region import fit, to_uint8

Pixels = NDArray[np.uint8]
_ROLES = ("held_out", None, "supervision")  # in this order, as `invertmill tune --invert` chooses
_COARSE = 16
"""Factor by which a degraded picture is reduced and enlarged again."""


@dataclass(frozen=True)
class MethodResults:
    """The committed results of one method: where each image's codes are."""

    name: str
    plan: Plan
    step: MapStep
    selection: Selection  # of the samples that units are cut from
    units: Mapping[str, Unit]  # by image
    roles: Mapping[str, int]

    @classmethod
    def from_study(cls, study: Study, name: str) -> MethodResults:
        """Return what a method's run has committed.

        Raises:
            ConfigError: its configuration is invalid.
            RunError: no segmenter is trained, or nothing is inverted with its settings.
        """
        config = config_of(study, name)
        plan = Plan(config, Stores.from_config(config))
        trained = plan.ledger.receipt(plan.train_segmenter())
        if trained is None:
            raise RunError(
                f"methods.{name}: no segmenter is trained yet; `invertmill run` with its settings comes first"
            )
        selection: Selection
        if (wanted := study.methods[name].evaluated) is not None:
            evaluated = _evaluated(plan, name, wanted)
            plan, step, selection = evaluated.plan, evaluated.steps[Invert], evaluated.samples.selection
            every: Iterable[Unit] = evaluated.samples.units
        else:
            step, selection = plan.map_steps(trained)[Invert], plan.everything
            every = plan.units(plan.inventories(), selection)
        return cls._of(name, plan, step, selection, {unit.name: unit for unit in every})

    @classmethod
    def _of(
        cls, name: str, plan: Plan, step: MapStep, selection: Selection, units: Mapping[str, Unit]
    ) -> MethodResults:
        """Return what is committed of some units."""
        found, roles = dict[str, Unit](), dict[str, int]()
        for receipt in plan.ledger.receipts(step.stage.name, step.fingerprint):
            for key in receipt.recorded if receipt.unit in units else ():
                unit = units[receipt.unit]
                image = f"{unit.shard.name}/{key}"
                found[image] = unit
                roles[image] = _ROLES.index(plan.supervision.role(unit.shard.name, key))
        if not found:
            raise RunError(
                f"methods.{name}: nothing is inverted with its settings; `invertmill run` with them (--set) comes first"
            )
        return cls(name, plan, step, selection, found, roles)

    @functools.cached_property
    def generator(self) -> Generator:
        """The run's generator."""
        device = process_device()
        return self.plan.generator_source.load(device)

    @functools.cached_property
    def edits(self) -> Mapping[str, EditOfCodes]:
        """The configured edits by name and magnitude; raise `RunError` if there are none."""
        if self.plan.config.edit is None:
            raise RunError(f"methods.{self.name}: task is edits, and its configuration has no section edit: add it")
        stage = self.plan.stage(Edit)
        found = edits_of(stage.directions, stage.magnitudes, stage.sequences, self.generator)
        return {edit.label: edit for edit in found}

    def photographs(self, images: Collection[str]) -> Iterator[tuple[str, Pixels]]:
        """Yield images with their photographs, fitted to the region."""
        for image, sample in self._read(images, records=False):
            pixels_HW3 = self.plan.image.picture(sample).pixels_HW3
            yield image, to_uint8(fit(pixels_HW3, self.plan.region)[None])[0]

    def pictures(self, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Pixels]]:
        """Yield subjects with what the method makes of them, from the codes as stored."""
        by_image = {subject.image: subject for subject in subjects}
        editor = Editor(
            self.generator, self.plan.region, published=bool(self.plan.config.edit and self.plan.config.edit.published)
        )
        for image, sample in self._read(by_image, records=True):
            subject = by_image[image]
            record = sample.records[Invert.name]
            yield subject, self._picture(editor, record, subject.edit)

    def _picture(self, editor: Editor, record: Record, edit: str) -> Pixels:
        generator, w_plus = self.generator, record.row["w_plus"]
        if record.row["generator"] != generator.digest:
            raise RunError(
                f"methods.{self.name}: {record.key} was inverted with the generator of SHA-256 "
                f"{record.row['generator']}, got {generator.digest}: name the former as generator.checkpoint"
            )
        assert isinstance(w_plus, np.ndarray)
        edits = [self.edits[edit]] if edit else []
        label = record.row.get("label")
        of_image = replace(editor, generator=tuned_generator(generator, record.arrays))
        codes = unpack_codes(w_plus, record.arrays)
        *_, picture = of_image.pictures(codes, edits, [label if isinstance(label, int) else None])
        pixels_1HW3: Pixels = to_uint8(picture.image_N3HW)
        found_HW3: Pixels = pixels_1HW3[0]
        return found_HW3

    def _read(self, images: Collection[str], *, records: bool) -> Iterator[tuple[str, Sample]]:
        """Yield images with their samples, unit by unit: with the records of invert, or with their pictures."""
        inventories = {shard: receipt.unit for shard, receipt in self.plan.inventories().items()}
        reader = Reader(self.plan.ledger, self.plan.sources, inventories, self.selection)
        recorded = [Recorded(self.step.stage.name, self.step.fingerprint)] if records else []
        placed = sorted(((self.units[image], image) for image in images), key=lambda one: (one[0].name, one[1]))
        for unit, of_unit in itertools.groupby(placed, key=lambda one: one[0]):
            keys = [image.removeprefix(f"{unit.shard.name}/") for _, image in of_unit]
            listed = reader.chosen(unit, keys)
            for one, sample in reader.read(unit, listed, recorded, no_members if records else None):
                if isinstance(sample, str):
                    raise RunError(f"methods.{self.name}: {one.key} cannot be read: {sample}")
                yield f"{unit.shard.name}/{one.key}", sample


def _evaluated(plan: Plan, name: str, wanted: str) -> Compared:
    """Return a method of the evaluation in a configuration; raise `RunError` if there is none of that name."""
    found = {method.name: method for method in committed(plan)}
    if wanted not in found:
        raise RunError(f"methods.{name}: evaluate has no method {wanted!r}; its methods are {', '.join(found)}")
    return found[wanted]


def chosen_subjects(study: Study, methods: Sequence[MethodResults]) -> list[Subject]:
    """Return what is judged: images that all methods have, held-out ones first, then by hash; edits in turn.

    Raises:
        RunError: no image is inverted by all methods, their regions differ, or an edit is not configured.
    """
    first, *others = methods
    if different := [other for other in others if other.plan.region.size != first.plan.region.size]:
        sizes = ", ".join(f"{one.name} {one.plan.region.size}" for one in (first, *different))
        raise RunError(f"the methods show different regions ({sizes}): give them the same region")
    common = set(first.units).intersection(*(other.units for other in others))
    if not common:
        counts = ", ".join(f"{method.name} {len(method.units)}" for method in methods)
        raise RunError(f"no image is inverted by all methods ({counts} images): give them the same input")
    ordered = sorted(common, key=lambda image: (first.roles[image], sample_seed(0, f"study:{image}")))
    images = ordered[: study.images]
    if study.task == "inversion":
        return [Subject(image=image) for image in images]
    edits = list(study.edits or first.edits)
    for method in methods:
        if unknown := [edit for edit in edits if edit not in method.edits]:
            raise RunError(
                f"methods.{method.name} has no edits {', '.join(unknown)}; its edits are {', '.join(method.edits)}"
            )
    return [Subject(image=image, edit=edits[i % len(edits)]) for i, image in enumerate(images)]


def degraded(pixels_HW3: Pixels) -> Pixels:
    """Return a picture reduced to a sixteenth and enlarged again, in 8 grey levels: nobody prefers it."""
    picture = Image.fromarray(pixels_HW3).convert("L")
    width, height = picture.size
    small = picture.resize((max(2, width // _COARSE), max(2, height // _COARSE)), Image.Resampling.BOX)
    coarse = np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) // 32 * 32
    return np.repeat(coarse[..., None], 3, axis=2).astype(np.uint8)


def picture_path(folder: Path, name: str) -> Path:
    """Return the file of a picture by its token."""
    return folder / "images" / f"{name}.png"
