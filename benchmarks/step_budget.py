"""The value of steps: fidelity against steps saved, by fewer steps for all, by early finish and by difficulty.

    python -m benchmarks.step_budget [--quick] --json FILE [--device cpu]

The demo's stages on its scenes with held-out occluders, with a longer schedule of inversion than the demo's, since most
images still improve at the end of that one. Error maps stand in for predicted maps: spaces are assigned by true errors,
and the budget is by the difficulty of a segmenter that is never wrong. Its bounds `easy` and `hard` are the 10th and
90th percentile of these scenes. Every setting inverts the same scenes with the same assignment.

A point for each setting: `mean_steps` an image, `saved` (share of the whole schedule's steps), `psnr_db`, `lpips`,
`loss`, all means over images, `lost_db` (PSNR of whole schedules minus its own, image by image) with its standard error
`lost_db_error`, `lost_db_per_saved`, and `over_fixed_db` (its PSNR minus that of as many steps for every image, between
the fixed settings around it). Steps are the measure of time: every step costs the same. `seconds` are what the stage
took, loading, drawing starts and slots that are idle while the last images end included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.supervision import SEED
from pipeline.config import RunConfig, load_config
from pipeline.demo.occluders import UNSEEN
from pipeline.demo.write_shards import demo_samples
from stages.base.stage import Record, Sample, Stage
from stages.engine.schedule import Schedule
from stages.engine.stopping import Budget, Finish
from stages.error_maps import ErrorMaps
from stages.images.image_member import pixels_of
from stages.invert import Invert
from stages.maps.region import Region
from stages.refine_maps import RefineMaps

DEMO = Path(__file__).parents[1] / "demo.yaml"
RATE = 0.1
WIDTH = 8
WINDOWS = 20
"""Windows of early finish, in a whole schedule."""
SHARES = (0.75, 0.5, 0.35, 0.25)
IMPROVEMENTS = (0.02, 0.05, 0.1, 0.2)
LEASTS = (0.5, 0.25)


@dataclass(frozen=True, eq=False)
class Point:
    """The result of a setting, image by image, and its seconds."""

    steps: NDArray[np.float64]
    psnr_db: NDArray[np.float64]
    lpips: NDArray[np.float64]
    loss: NDArray[np.float64]
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures."""
    parser = parser_of("step_budget", __doc__, "few images and steps; within 5 minutes on 2 cores")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device = torch.device(options.device)
    images, steps = (WIDTH, 40) if options.quick else (3 * WIDTH, 200)
    report = _report(load_config(DEMO), images, steps, device) | {"quick": options.quick}
    for point in report["points"]:
        print(", ".join(f"{name} {value}" for name, value in point.items()))
    write_report(options.json, report)
    return 0


def _report(config: RunConfig, images: int, steps: int, device: torch.device) -> dict[str, Any]:
    samples, errors = _assigned(config, _scenes(images), device)
    whole, window = Schedule(steps=steps, learning_rate=RATE), max(1, steps // WINDOWS)
    fixed = {share: whole.model_copy(update={"steps": round(share * steps)}) for share in (1.0, *SHARES)}
    finishes = [Finish(window=window, improvement=improvement) for improvement in IMPROVEMENTS]
    easy, hard = (round(float(bound), 4) for bound in np.quantile(errors, (0.1, 0.9)))
    budgets = [Budget(least=least, easy=easy, hard=hard) for least in LEASTS]
    found = [_point(config, samples, {"schedule": schedule}, device) for schedule in fixed.values()]
    found += [_point(config, samples, {"schedule": whole, "finish": finish}, device) for finish in finishes]
    found += [_point(config, samples, {"schedule": whole, "budget": budget}, device) for budget in budgets]
    names = [f"fixed, {share:g} of the steps" for share in fixed]
    names += [f"finish below {one.improvement:g} in {one.window} steps" for one in finishes]
    names += [f"budget from {one.least:g}" for one in budgets]
    return {
        "benchmark": "step_budget",
        "points": _compared(names, found, len(fixed)),
        "images": images,
        "steps": steps,
        "learning_rate": RATE,
        "width": WIDTH,
        "easy": easy,
        "hard": hard,
        "start_samples": config.invert.start_samples,
        "threshold": config.refine_maps.threshold,
        "units": {
            "mean_steps": "steps per image, mean over images",
            "saved": "share of the whole schedule's steps",
            "psnr_db": "dB, mean over images",
            "lpips": f"{config.perceptual.backbone} perceptual distance, mean over images",
            "loss": "weighted loss before the last step, mean over images",
            "lost_db": "dB of PSNR of the whole schedule minus this",
            "lost_db_error": "dB, standard error of lost_db over images",
            "lost_db_per_saved": "dB for the whole of the steps, at this rate",
            "over_fixed_db": "dB of PSNR over as many steps for every image",
            "seconds": "s of the stage",
        },
        "seed": SEED,
        **circumstances(device),
    }


def _scenes(count: int) -> list[Sample]:
    made = demo_samples("held-out-000000", count, UNSEEN, SEED)
    members = [{name: data for name, data in one.items() if isinstance(data, bytes)} for one in made]
    return [Sample(f"{i:06d}", "shard", its) for i, its in enumerate(members)]


def _assigned(
    config: RunConfig, samples: Sequence[Sample], device: torch.device
) -> tuple[list[Sample], NDArray[np.float64]]:
    """Return the samples with their assigned spaces, by true errors, and the mean error of each in its spaces."""
    settings = config.error_maps
    stage = ErrorMaps(
        generator=config.generator,
        perceptual=config.perceptual,
        **{name: getattr(settings, name) for name in type(settings).model_fields},
    )
    spaces, side_px = config.generator.load(device).spaces, pixels_of(samples[0]).shape[0]
    refine = RefineMaps(
        spaces=spaces,
        region=Region.whole(side_px),
        threshold=config.refine_maps.threshold,
        segmentation=config.refine_maps.segmentation,
    )
    mapped = [
        _with(sample, "predict_maps", one) for sample, one in zip(samples, _run(stage, samples, device), strict=True)
    ]
    refined = _run(refine, mapped, device)
    errors = np.array([float(str(one.row["error"])) for one in refined])
    return [_with(sample, "refine_maps", one) for sample, one in zip(samples, refined, strict=True)], errors


def _with(sample: Sample, stage: str, record: Record) -> Sample:
    return replace(sample, records={stage: record})


def _run(stage: Stage, samples: Sequence[Sample], device: torch.device) -> list[Record]:
    records = []
    for record in stage.setup(device)(samples):
        assert isinstance(record, Record), record.reason
        records.append(record)
    return records


def _point(config: RunConfig, samples: Sequence[Sample], settings: Mapping[str, Any], device: torch.device) -> Point:
    stage = Invert(
        generator=config.generator,
        perceptual=config.perceptual,
        objective=config.invert.objective,
        start_samples=config.invert.start_samples,
        batch=WIDTH,
        **settings,
    )
    started = time.perf_counter()
    records = _run(stage, samples, device)
    seconds = time.perf_counter() - started
    columns = ("steps", "psnr_db", "lpips", "loss")
    each = {name: np.array([float(str(one.row[name])) for one in records]) for name in columns}
    return Point(**each, seconds=seconds)


def _compared(names: Sequence[str], points: Sequence[Point], fixed: int) -> list[dict[str, Any]]:
    """Return the points, rounded, compared with whole schedules, the first of them, and between the `fixed` first."""
    whole, found = points[0], []
    by_steps = np.array(sorted((point.steps.mean(), point.psnr_db.mean()) for point in points[:fixed]))
    for name, point in zip(names, points, strict=True):
        saved, lost_N = 1 - point.steps.mean() / whole.steps.mean(), whole.psnr_db - point.psnr_db
        figures = {
            "mean_steps": point.steps.mean(),
            "saved": saved,
            "psnr_db": point.psnr_db.mean(),
            "lpips": point.lpips.mean(),
            "loss": point.loss.mean(),
            "lost_db": lost_N.mean(),
            "lost_db_error": lost_N.std(ddof=1) / len(lost_N) ** 0.5,
            "lost_db_per_saved": lost_N.mean() / saved if saved else 0.0,
            "over_fixed_db": point.psnr_db.mean() - np.interp(point.steps.mean(), *by_steps.T),
            "seconds": point.seconds,
        }
        found.append({"setting": name} | {key: round(float(value), 4) for key, value in figures.items()})
    return found


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
