"""The demo's occluded held-out scenes, inverted in process by every method, with the true images of their edits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from generators.generator import Generator
from generators.latents import Codes
from pipeline.config import RunConfig, load_config
from pipeline.demo.edits import DIRECTIONS, EDITS, TRUE_MAGNITUDES
from pipeline.demo.occluders import UNSEEN
from pipeline.demo.write_shards import CLEAN_EVERY, SHARDS, demo_samples
from pipeline.report.edit_truth import EditMeasure, TrueEdits, measured, read_true_edits
from stages.base.stage import Record, Sample
from stages.editing.editor import Editor
from stages.editing.settings import EditDirection, EditOfCodes, edits_of
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.inversion.packing import unpack_codes
from stages.inversion.single import unpack_single
from stages.invert import Invert
from stages.maps.assignment import assign_spaces
from stages.maps.region import Region
from stages.maps.spaces import column
from stages.maps.truth import known_occluder
from stages.objective.objective import Objective

DEMO = Path(__file__).parents[2] / "demo.yaml"
HELD_OUT = "held-out-000000"
CPU = torch.device("cpu")
HASTY = (
    "error_maps.schedule.steps=2",
    "invert.schedule.steps=2",
    "error_maps.start={kind: learnt, samples: 8}",
    "invert.start={kind: learnt, samples: 8}",
)
"""Settings under which inversions take a second and are worth nothing, for tests of what is done with them."""


@dataclass(frozen=True)
class Scenes:
    """Scenes with their error maps, from inversions in every single space."""

    config: RunConfig
    generator: Generator
    samples: Sequence[Sample]
    alone: Sequence[Record]

    @classmethod
    def from_demo(cls, count: int, settings: Sequence[str] = ()) -> Scenes:
        """Invert the first occluded ones of the demo's held-out scenes in every single space.

        Args:
            count: of the scenes, at most 16.
            settings: that differ from `demo.yaml`, as `--set` takes them.
        """
        config = load_config(DEMO, settings)
        scenes = demo_samples(HELD_OUT, SHARDS[HELD_OUT], UNSEEN, edits=True)
        members = [{name: data for name, data in scene.items() if isinstance(data, bytes)} for scene in scenes]
        occluded = [one for number, one in enumerate(members) if number % CLEAN_EVERY][:count]
        samples = [Sample(f"scene-{number}", HELD_OUT, one) for number, one in enumerate(occluded)]
        stage = ErrorMaps(**networks_of(config), **settings_of(config.error_maps) | {"keep_codes": True})
        records = [record for record in stage.setup(CPU)(samples) if isinstance(record, Record)]
        assert len(records) == len(samples), "every scene is inverted"
        return cls(config, config.generator.load(CPU), samples, records)

    def assignments(self, *, refined: bool = True) -> list[NDArray[np.uint8]]:
        """Return the space of each pixel by the scenes' own error maps at the demo's threshold.

        Args:
            refined: one space for each segment, by its mean error (thesis Sec. 3.2); otherwise each pixel by itself.
        """
        assigned = []
        for sample, record in zip(self.samples, self.alone, strict=True):
            error_LHW = record.arrays["error_LHW"].astype(np.float32)
            pixels_HW = np.arange(error_LHW[0].size).reshape(error_LHW.shape[1:])
            segments_HW = np.asarray(Image.open(io.BytesIO(sample.members["seg.png"])))
            labels_HW = segments_HW if refined else pixels_HW
            assigned.append(assign_spaces(error_LHW, labels_HW, self.config.refine_maps.threshold))
        return assigned

    def inverted(self, assignments: Sequence[NDArray[np.uint8]], objective: Objective | None = None) -> list[Record]:
        """Return the SAM inversions under some assignments, with the demo's objective unless another is given."""
        settings = settings_of(self.config.invert) | ({} if objective is None else {"objective": objective})
        refined = [Record(s.key, {}, {"assignment_HW": a}) for s, a in zip(self.samples, assignments, strict=True)]
        samples = [
            Sample(sample.key, sample.shard, sample.members, {"refine_maps": record})
            for sample, record in zip(self.samples, refined, strict=True)
        ]
        return [r for r in Invert(**networks_of(self.config), **settings).setup(CPU)(samples) if isinstance(r, Record)]

    @property
    def editor(self) -> Editor:
        """The editor of the demo's generator."""
        return Editor(self.generator, Region.whole(self.generator.resolution))

    @property
    def edits(self) -> tuple[EditOfCodes, ...]:
        """The demo's edits whose true images are known."""
        directions = [EditDirection(name=name, path=DIRECTIONS, direction=name) for name in EDITS]
        return edits_of(directions, TRUE_MAGNITUDES, (), self.generator)

    def truth(self, sample: Sample) -> TrueEdits:
        """Return the true edits of a scene."""
        picture = ImageMember(member="png").picture(sample)
        occluded_HW = known_occluder(sample, "occluder.png", picture.geometry, self.editor.region)
        assert occluded_HW is not None
        images = read_true_edits(sample.members["edits.npz"], sample.key)
        return TrueEdits(sample.key, picture.pixels_HW3, occluded_HW, images)

    def codes_alone(self) -> list[dict[str, Codes]]:
        """Return the codes of each scene in every space alone."""
        return [
            {column(space): codes for space, codes in unpack_single(record.arrays).items()} for record in self.alone
        ]

    def measures(self, methods: Sequence[Mapping[str, Codes]]) -> list[EditMeasure]:
        """Return the measures of all edits against their truth; `methods` are the codes of each scene by method."""
        return [
            measure
            for sample, codes in zip(self.samples, methods, strict=True)
            for measure in measured(dict.fromkeys(codes, self.editor), codes, self.edits, self.truth(sample))
        ]


def codes_of(record: Record) -> Codes:
    """Return the codes of an inversion as stored."""
    w_plus = record.row["w_plus"]
    assert isinstance(w_plus, np.ndarray)
    return unpack_codes(w_plus, record.arrays)


def networks_of(config: RunConfig) -> dict[str, object]:
    """Return the networks of the demo, and which member of its scenes is the picture."""
    return {"generator": config.generator, "perceptual": config.perceptual, "image": ImageMember(member="png")}


def settings_of(section: object) -> dict[str, object]:
    """Return the settings of a section by name, for the stage that they belong to."""
    return {name: getattr(section, name) for name in type(section).model_fields}  # type: ignore[attr-defined]
