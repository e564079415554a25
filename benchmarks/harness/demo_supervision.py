"""The demo's supervision in one process: error maps of its scenes, segmenters trained on them, and their quality."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness.edited_scenes import CPU, networks_of, settings_of
from pipeline.config import RunConfig
from pipeline.demo.occluders import SEEN, UNSEEN
from pipeline.demo.write_shards import SHARDS, demo_samples
from pipeline.report.map_quality import HeldOut, MapQuality, judge
from stages.base.stage import Record, Sample
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.invert import Invert
from stages.maps.assignment import assign_spaces
from stages.maps.region import Region, fit
from stages.maps.truth import auroc
from stages.segmenter.examples import Example
from stages.segmenter.network import Segmenter, load_segmenter
from stages.train_segmenter import TrainSegmenter, train

SPACES = ("W+", "F2", "F4", "F6")
"""Of the demo's generator."""
SIDE_PX = 64
PICTURE = ImageMember(member="png")
Maps = Mapping[str, NDArray[np.float32]]
"""Error maps `[L, H, W]` by the key of a scene."""


def scenes_of(role: str, count: int | None = None) -> list[Sample]:
    """Return the scenes of the demo's shards of one role, `supervision` or `held-out`; the first `count` of each."""
    kinds = UNSEEN if role == "held-out" else SEEN
    return [
        Sample(str(made["__key__"]), shard, {name: data for name, data in made.items() if isinstance(data, bytes)})
        for shard, size in SHARDS.items()
        if shard.startswith(role)
        for made in demo_samples(shard, min(size, count or size), kinds)
    ]


@dataclass(frozen=True)
class Inverted:
    """Error maps of some scenes, and what they took."""

    maps: Maps
    psnr_db: dict[str, float]  # mean over scenes, by space
    processor_s: float


def inverted_alone(config: RunConfig, scenes: Sequence[Sample]) -> Inverted:
    """Invert scenes in every single space, as a configuration says; loading and starts drawn once count as well."""
    started = time.process_time()
    stage = ErrorMaps(**networks_of(config), **settings_of(config.error_maps) | {"keep_codes": False})
    records = [record for record in stage.setup(CPU)(scenes) if isinstance(record, Record)]
    assert len(records) == len(scenes), "every scene is inverted"
    names = [name for name in records[0].row if name.startswith("psnr_db_")]
    psnr_db = {name.removeprefix("psnr_db_"): fmean(float(str(r.row[name])) for r in records) for name in names}
    maps = {record.key: record.arrays["error_LHW"].astype(np.float32) for record in records}
    return Inverted(maps, psnr_db, time.process_time() - started)


@dataclass(frozen=True)
class Examples:
    """An `ExampleSource` of scenes with their error maps, in units of the demo's size."""

    scenes: Sequence[Sample]
    maps: Maps
    spaces: tuple[str, ...] = SPACES
    size: tuple[int, int] = (SIDE_PX, SIDE_PX)
    in_a_unit: int = 12

    @property
    def units(self) -> list[str]:
        """Their first scenes' numbers."""
        return [str(first) for first in range(0, len(self.scenes), self.in_a_unit)]

    def read(self, unit: str, wanted: Callable[[str], bool]) -> list[Example]:
        """Return the selected examples of a unit."""
        scenes = self.scenes[int(unit) : int(unit) + self.in_a_unit]
        return [
            Example(scene.key, PICTURE.picture(scene).pixels_HW3, self.maps[scene.key].astype(np.float16))
            for scene in scenes
            if wanted(scene.key)
        ]


def trained(stage: TrainSegmenter, examples: Examples) -> tuple[Segmenter, float]:
    """Return a segmenter, and the processor seconds of its training."""
    started = time.process_time()
    checkpoint = train(stage, examples, CPU).checkpoint
    seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segmenter.safetensors"
        path.write_bytes(checkpoint)
        return load_segmenter(path, CPU), seconds


@torch.no_grad()
def predicted(segmenter: Segmenter, scenes: Sequence[Sample]) -> Maps:
    """Return the maps that a segmenter predicts for scenes."""
    maps = dict[str, NDArray[np.float32]]()
    for scene in scenes:
        image_3HW = fit(PICTURE.picture(scene).pixels_HW3, Region.whole(SIDE_PX))
        maps[scene.key] = segmenter(image_3HW[None])[0].numpy()
    return maps


def quality(said: Maps, achieved: Maps, scenes: Sequence[Sample]) -> MapQuality:
    """Return how well maps agree with achieved errors, per segment of the scenes' labels."""
    return judge([HeldOut(said[s.key], achieved[s.key], labels_of(s), occluder_of(s)) for s in scenes], SPACES)


def calibration_error(found: MapQuality) -> dict[str, float]:
    """Return per space the distance of the curve's points from the diagonal, as a share of the mean error."""
    shares = {}
    for space, curve in found.calibration.items():
        far = sum(abs(said - achieved) * count for said, achieved, count in curve)
        shares[space] = round(far / sum(achieved * count for _, achieved, count in curve), 3)
    return shares


def auroc_of(maps: Maps, scenes: Sequence[Sample]) -> float:
    """Return the AUROC of the first space's maps against the known occluders, mean over the scenes that have one."""
    found = [auroc(maps[scene.key][0], occluder_of(scene)) for scene in scenes]
    return fmean(value for value in found if value is not None)


def inverted_as_assigned(config: RunConfig, said: Maps, scenes: Sequence[Sample]) -> dict[str, float]:
    """Invert occluded scenes in the spaces that maps give their segments; return mean PSNR and share of W+."""
    occluded = [scene for scene in scenes if occluder_of(scene).any()]
    assigned = [assign_spaces(said[s.key], labels_of(s), config.refine_maps.threshold) for s in occluded]
    samples = [
        Sample(s.key, s.shard, s.members, {"refine_maps": Record(s.key, {}, {"assignment_HW": assignment_HW})})
        for s, assignment_HW in zip(occluded, assigned, strict=True)
    ]
    stage = Invert(**networks_of(config), **settings_of(config.invert))
    records = [record for record in stage.setup(CPU)(samples) if isinstance(record, Record)]
    return {
        "psnr_db_occluded": fmean(float(str(record.row["psnr_db"])) for record in records),
        "share_w_plus": fmean(float((assignment_HW == 0).mean()) for assignment_HW in assigned),
    }


def labels_of(scene: Sample) -> NDArray[np.int32]:
    """Return the exact segments of a scene."""
    return np.asarray(Image.open(io.BytesIO(scene.members["seg.png"])), np.int32)


def occluder_of(scene: Sample) -> NDArray[np.bool_]:
    """Return where a scene is occluded."""
    return np.asarray(Image.open(io.BytesIO(scene.members["occluder.png"])).convert("L")) > 127
