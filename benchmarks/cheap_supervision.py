"""Cheaper supervision: quality of the demo's maps against processor seconds of error maps and training.

    python -m benchmarks.cheap_supervision [--quick] --json FILE [--seeds 3]

Every variant makes the error maps of the demo's supervision scenes, trains segmenters on them, and predicts the maps of
the held-out scenes. All are judged against the same achieved errors of the held-out scenes (`REFERENCE`), and against
those of four times as many steps (`CONVERGED`), never against their own.

`correlation`, `bias`, `calibration`: per segment and space, as in `benchmarks.segmenter_target`, mean over seeds;
`spread`: standard deviation of the correlation over seeds. `auroc`: of the predicted map in W+ against known occluders,
mean over seeds; `auroc_error_map`: of the variant's own error maps of the supervision scenes. `error_maps_s`,
`training_s`: processor seconds, loading included. `psnr_db`: of the inversions in one space alone, supervision scenes.
`sam`: PSNR of the occluded held-out scenes, inverted as the demo does where the maps of the first seed say, and their
share of pixels in W+.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch

from benchmarks.harness import demo_supervision as demo
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.edited_scenes import CPU, DEMO, HASTY
from pipeline.config import RunConfig, load_config
from stages.base.stage import Sample

LEARNT = "error_maps.start={kind: learnt, samples: 1024}"
ENCODER = "error_maps.start={kind: encoder, encoder: {kind: sam, checkpoint: pipeline/demo/assets/encoder.safetensors}}"
RECIPE = ("train_segmenter.epochs=80", "train_segmenter.augmentation={paste: 0.5, jitter: 0.4}")


def schedule(steps: int, rate: float, ramp_up: float = 0.05, ramp_down: float = 0.25) -> str:
    """Return the setting of the schedule of error maps."""
    return f"error_maps.schedule={{steps: {steps}, learning_rate: {rate}, ramp_up: {ramp_up}, ramp_down: {ramp_down}}}"


REFERENCE = (LEARNT, schedule(50, 0.15))
CONVERGED = (LEARNT, schedule(200, 0.15))
NEAR = schedule(30, 0.04, 0, 0.3)
"""From an encoder: a low rate keeps a near start near."""
SHORT = "error_maps.schedule={steps: 25, learning_rate: 0.05, ramp_up: 0, ramp_down: 0.5, betas: [0.7, 0.9]}"
"""The demo's: a short memory of Adam."""


@dataclass(frozen=True)
class Variant:
    """Settings that differ from `demo.yaml`, and how many of the supervision scenes there are."""

    settings: tuple[str, ...]
    scenes_per_shard: int | None = None


VARIANTS = {
    "learnt, 50 steps": Variant((*REFERENCE, *RECIPE)),  # the demo's until 2026-11-29
    "learnt, 25 steps": Variant((LEARNT, schedule(25, 0.15), *RECIPE)),
    "encoder, 12 steps": Variant((ENCODER, schedule(12, 0.05, 0, 0.5), *RECIPE)),
    "encoder, 25 steps": Variant((ENCODER, schedule(25, 0.05, 0, 0.5), *RECIPE)),
    "encoder, 30 steps": Variant((ENCODER, NEAR, *RECIPE)),
    "short memory": Variant((ENCODER, SHORT, *RECIPE)),
    "short memory, more pasted": Variant((ENCODER, SHORT, "train_segmenter.augmentation={paste: 0.7, jitter: 0.4}")),
    "20 scenes, 160 epochs": Variant((ENCODER, NEAR, *RECIPE, "train_segmenter.epochs=160"), scenes_per_shard=10),
    "60 epochs": Variant((ENCODER, NEAR, *RECIPE, "train_segmenter.epochs=60")),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the figures."""
    parser = parser_of("cheap_supervision", __doc__, "steps and epochs that are worth nothing, few scenes, one seed")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="variants to measure; all by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    measuring = Measuring.quick() if options.quick else Measuring(seeds=options.seeds)
    report: dict[str, Any] = {"benchmark": "cheap_supervision", "seeds": measuring.seeds, "quick": options.quick}
    for name in options.only or VARIANTS:
        report[name] = measuring.of(VARIANTS[name])
        print(name, report[name], flush=True)
    write_report(options.json, report | circumstances(CPU))
    return 0


@dataclass(frozen=True)
class Measuring:
    """What variants are judged by: held-out scenes and their achieved errors, which no variant changes."""

    seeds: int
    haste: tuple[str, ...] = ()
    count: int | None = None  # scenes of each shard; None is the variant's

    @classmethod
    def quick(cls) -> Measuring:
        """Return one that takes seconds, and whose figures are worth nothing."""
        return cls(1, (*HASTY, "train_segmenter.epochs=1"), 3)

    @functools.cached_property
    def held_out(self) -> list[Sample]:
        """The held-out scenes."""
        return demo.scenes_of("held-out", self.count)

    @functools.cached_property
    def achieved(self) -> dict[str, demo.Maps]:
        """The achieved errors of the held-out scenes, by the name of their reference."""
        references = {"reference": REFERENCE, "converged": CONVERGED}
        return {
            name: demo.inverted_alone(self.config(settings), self.held_out).maps
            for name, settings in references.items()
        }

    def config(self, settings: Sequence[str]) -> RunConfig:
        """Return the demo's configuration with other settings."""
        return load_config(DEMO, (*settings, *self.haste))

    def of(self, variant: Variant) -> dict[str, Any]:
        """Return the figures of a variant."""
        config = self.config(variant.settings)
        scenes = demo.scenes_of("supervision", self.count or variant.scenes_per_shard)
        alone = demo.inverted_alone(config, scenes)
        stages = [config.train_segmenter.model_copy(update={"seed": seed}) for seed in range(self.seeds)]
        trained = [demo.trained(stage, demo.Examples(scenes, alone.maps)) for stage in stages]
        said = [demo.predicted(segmenter, self.held_out) for segmenter, _ in trained]
        return {
            "settings": variant.settings,
            "scenes": len(scenes),
            "error_maps_s": round(alone.processor_s, 1),
            "training_s": round(fmean(seconds for _, seconds in trained), 1),
            "psnr_db": {space: round(value, 2) for space, value in alone.psnr_db.items()},
            "auroc_error_map": round(demo.auroc_of(alone.maps, scenes), 4),
            "auroc": round(fmean(demo.auroc_of(maps, self.held_out) for maps in said), 4),
            **{name: _agreement(said, maps, self.held_out) for name, maps in self.achieved.items()},
            "sam": demo.inverted_as_assigned(config, said[0], self.held_out),
        }


def _agreement(said: Sequence[demo.Maps], achieved: demo.Maps, scenes: Sequence[Sample]) -> dict[str, Any]:
    """Return how well the maps of several seeds agree with achieved errors, means over seeds."""
    found = [demo.quality(maps, achieved, scenes) for maps in said]
    correlations = {space: [one.correlation_per_segment[space] or 0.0 for one in found] for space in demo.SPACES}
    return {
        "correlation": {space: round(fmean(values), 3) for space, values in correlations.items()},
        "spread": {space: round(pstdev(values), 3) for space, values in correlations.items()},
        "bias": {space: round(fmean(one.bias_per_segment[space] or 0.0 for one in found), 4) for space in demo.SPACES},
        "calibration": {
            space: round(fmean(demo.calibration_error(one)[space] for one in found), 3) for space in demo.SPACES
        },
    }


if __name__ == "__main__":
    sys.exit(main())
