"""The segmenter's target: errors against calibrated square roots, on one run's committed error maps.

Trains the configuration's segmenter with both targets, and predicts what the run holds out for evaluation. For each
space: Pearson's correlation of predicted with achieved error per segment and per pixel, `bias` (mean over segments of
predicted minus achieved error), and `calibration`, mean absolute difference of the two over the points of the
calibration curve, relative to the mean achieved error. A run must have made its error maps: `make demo` does.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.demo_supervision import calibration_error
from pipeline.config import load_config
from pipeline.data.reading import Recorded
from pipeline.data.stores import Stores
from pipeline.plan.plan import Plan
from pipeline.report.map_quality import HeldOut, judge
from pipeline.training.committed_examples import MAPS, CommittedExamples, Supervision
from stages.base.stage import Record, Sample
from stages.error_maps import ErrorMaps
from stages.images.image_member import pixels_of
from stages.maps.reduction import fit_reduced
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.segmenter.network import Segmenter, Target, load_segmenter
from stages.train_segmenter import TrainSegmenter, train

TARGETS: tuple[Target, ...] = ("error", "root")
QUICK_EPOCHS = 10


def main(arguments: list[str] | None = None) -> int:
    """Train with both targets, print and write the figures; return 2 if the run has no error maps yet."""
    parser = parser_of("segmenter_target", __doc__, f"{QUICK_EPOCHS} epochs and one seed")
    parser.add_argument("--config", type=Path, default=Path("demo.yaml"), help="of a run whose error maps are made")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each target")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = load_config(options.config)
    plan = Plan(config, Stores.from_config(config))
    supervision = Supervision.from_plan(plan, plan.inventories())
    if not supervision.committed:
        print(f"the run of {options.config} has no error maps: run it first", file=sys.stderr)
        return 2
    epochs = QUICK_EPOCHS if options.quick else config.train_segmenter.epochs
    report: dict[str, Any] = {"benchmark": "segmenter_target", "epochs": epochs, "quick": options.quick}
    for target in TARGETS:
        stages = [
            config.train_segmenter.model_copy(update={"target": target, "seed": seed, "epochs": epochs})
            for seed in range(options.seeds)
        ]
        runs = [_run(plan, supervision, stage, torch.device(options.device)) for stage in stages]
        report[target] = runs
        for run in runs:
            print(target, {name: run[name] for name in ("correlation", "bias", "calibration", "seconds")})
    report |= circumstances(torch.device(options.device))
    write_report(options.json, report)
    return 0


def _run(plan: Plan, supervision: Supervision, stage: TrainSegmenter, device: torch.device) -> dict[str, Any]:
    started = time.perf_counter()
    trained = train(stage, CommittedExamples(supervision), device)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segmenter.safetensors"
        path.write_bytes(trained.checkpoint)
        segmenter = load_segmenter(path, device)
    found = judge(_held_out(plan, supervision, segmenter), plan.spaces)
    return {
        "seed": stage.seed,
        "correlation": _rounded(found.correlation_per_segment),
        "correlation_per_pixel": _rounded(found.correlation_per_pixel),
        "bias": _rounded(found.bias_per_segment, 4),
        "calibration": calibration_error(found),
        "average_precision": found.average_precision_predicted_map,
        "quality": asdict(found),
        "seconds": round(seconds, 1),
    }


def _rounded(values: dict[str, float | None], digits: int = 3) -> dict[str, float | None]:
    return {space: None if value is None else round(value, digits) for space, value in values.items()}


def _held_out(plan: Plan, supervision: Supervision, segmenter: Segmenter) -> Iterator[HeldOut]:
    """Yield what is held out for evaluation, with the maps that a segmenter predicts for it."""
    refine = plan.stage(RefineMaps).setup(torch.device("cpu"))
    reader, maps = supervision.reader(), Recorded(ErrorMaps.name, supervision.error_maps, rows=False, arrays={MAPS})
    for unit in supervision.committed:
        role = functools.partial(supervision.selection.role, unit.shard.name)
        listed = [sample for sample in reader.listed(unit) if role(sample.key) == "held_out"]
        for _, sample in reader.read(unit, listed, [maps]):
            if isinstance(sample, str):
                continue
            predicted_LHW = _predicted(plan, segmenter, sample)
            predicted = {PredictMaps.name: Record(sample.key, {}, {MAPS: predicted_LHW.astype(np.float16)})}
            (refined,) = refine([replace(sample, records=predicted)])
            assert isinstance(refined, Record)
            labels_HW = refined.arrays["labels_HW"].astype(np.int32)
            yield HeldOut(
                predicted_LHW, sample.records[ErrorMaps.name].arrays[MAPS].astype(np.float32), labels_HW, None
            )


@torch.no_grad()
def _predicted(plan: Plan, segmenter: Segmenter, sample: Sample) -> NDArray[np.float32]:
    image_3HW = fit_reduced(pixels_of(sample), plan.region, plan.config.maps.side_px)
    device = next(segmenter.parameters()).device
    predicted_LHW: NDArray[np.float32] = segmenter(image_3HW[None].to(device))[0].cpu().numpy()
    return predicted_LHW


if __name__ == "__main__":
    sys.exit(main())
