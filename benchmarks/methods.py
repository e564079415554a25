"""Methods compared on the demo's held-out scenes: fidelity, seconds and steps; and the gain of a better start.

    python -m benchmarks.methods [--quick] --json FILE [--device cpu] [--encoder FILE]

All methods invert the same scenes in the demo's generator, with its objective, in one run and in fp32; figures are
means over scenes, of the codes as stored. Segments get the space that `assign_spaces` gives them at the demo's
threshold, from the errors achieved in every single space. `methods`: name → `psnr_db`, `lpips` (of the demo's
distance), `psnr_db_occluded`, `seconds_per_image` (of one worker, measures included) and `steps`. Methods in W, W+ and
a feature space have no regularisation but the deltas' own. `--encoder` is an encoder of the demo's generator: a SAM
encoder (`.safetensors`; by default the demo's) or one in a published format.

`steps_to_equal_loss`: for each start, the steps of a whole schedule (ramps included) that reach the mean loss of
the demo's steps from the mean w; the fewest of the schedules tried (at a lower rate from an encoder or a bundle).
`steps_to_loss_of_learnt`: the same for the loss of the demo's steps from the learnt start. `schedules`: those, with the
loss of each. `default_schedules` (without `--quick`): loss and PSNR of each start with the schedule that
`invert.schedule: null` gives it, on six scenes.
`share_of_bare_forward`: images per second of the `encode` worker over those of its bare networks (encoder, generator,
distance) on images that are on the device already, with a published encoder's network (IR-SE-50) of random weights;
`share_of_bare_forward_committed`: the same for all that an actor does, from shard to committed bundle.
`processor_seconds`: of the whole command, all threads together; other programs hardly change it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.encoder_share import encoder_shares
from benchmarks.supervision import ASSETS, OBJECTIVE, SEED
from generators.codes import write_keys
from generators.source import GeneratorSource
from pipeline.demo.occluders import UNSEEN
from pipeline.demo.write_shards import demo_samples
from stages.base.stage import Record, Sample
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.images.decoding import decode_values
from stages.invert import Invert
from stages.maps.assignment import assign_spaces
from stages.perceptual.source import PerceptualSource

STEPS, RATE = 50, 0.1
"""The schedule of the demo's inversions until it took a short memory of Adam."""
BATCH = 6
"""A divisor of the numbers of scenes: idle slots would cost as much as others."""
THRESHOLD = 0.055
"""The demo's for errors of 50 steps from the learnt start."""
DRAWS = {"kind": "learnt", "samples": 1024}
SHARES = (0.06, 0.12, 0.24, 0.5, 1.0)
"""Shares of the demo's steps that are tried for each start; 0.24 is the most within a quarter."""
QUICK_SHARES = (0.06, 0.24, 1.0)
HYBRID = Schedule(steps=12, learning_rate=0.05, ramp_up=0, ramp_down=0.5)
"""Of inversions from an encoder: less than a quarter of the demo's steps. A lower rate keeps a near start near."""
PLAIN = {"lambda_gaussian": 0.0, "lambda_variation": 0.0}
PIVOTAL = {
    "kind": "pivotal",
    "pivot": {"steps": 100, "learning_rate": 0.1},
    "tuning": {"steps": 100, "learning_rate": 1e-3, "stop_lpips": 0.002, "locality": {"alpha": 5.0}},
}
"""PTI's settings belong to codes of 512 dimensions and another distance; these reach their limits on the demo."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the figures."""
    parser = parser_of("methods", __doc__, "few scenes; within 5 minutes on 2 cores")
    parser.add_argument(
        "--encoder",
        type=Path,
        default=ASSETS / "encoder.safetensors",
        help="an encoder of the demo's generator: a SAM encoder (.safetensors), or a file in a published format",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device, started, processor = torch.device(options.device), time.perf_counter(), time.process_time()
    scenes = assigned(held_out(6 if options.quick else 24), device)
    measured = dict[str, Mapping[str, float]]()
    for name, stage in methods(options.encoder).items():
        measured[name] = _figures(stage, scenes, device)
        print(name, measured[name], flush=True)
    starts = _compared_starts(options.encoder, scenes, device, quick=options.quick)
    print(starts, flush=True)
    shares = encoder_shares(16 if options.quick else 128, 3, device)
    print(shares, flush=True)
    report = {
        "benchmark": "methods",
        "methods": measured,
        **starts,
        **shares,
        "units": {
            "psnr_db": "dB, mean over scenes, at 64 px",
            "lpips": "the demo's distance",
            "seconds_per_image": "seconds of one worker",
            "steps": "of the optimiser, tuning included; passes of an encoder",
            "steps_to_equal_loss": "steps that reach `equal_loss`, none if no schedule does",
            "steps_to_loss_of_learnt": "steps that reach `loss_of_learnt`, none if no schedule does",
        },
        "scenes": len(scenes),
        "quick": options.quick,
        "seed": SEED,
        **circumstances(device),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
    }
    write_report(options.json, report)
    return 0


def methods(encoder: Path) -> dict[str, Invert]:
    """Return the stage of every method, by name."""
    chosen: dict[str, dict[str, Any]] = {
        "SAM": {"start": DRAWS},
        "W": {"method": {"kind": "optimise", "spaces": "W"}, "start": DRAWS, "objective": PLAIN},
        "W+": {"method": {"kind": "optimise", "spaces": "W+"}, "start": DRAWS, "objective": PLAIN},
        "F4": {"method": {"kind": "optimise", "spaces": "F4"}, "start": DRAWS, "objective": PLAIN},
        "Gaussian prior": {"method": {"kind": "gaussian_prior"}, "start": DRAWS},
        "pivotal": {"method": PIVOTAL, "start": DRAWS},
    }
    named, sam = {"encoder": _encoder(encoder)}, _encoder(encoder)["kind"] == "sam"
    one_pass = {"kind": "sam_encoder", "checkpoint": encoder} if sam else {"kind": "encode", **named}
    chosen |= {
        "SAM encoder" if sam else "encoder": {"method": one_pass},
        "hybrid W+": {"method": {"kind": "hybrid", "spaces": "W+", **named}, "objective": PLAIN, "schedule": HYBRID},
        "hybrid SAM": {"method": {"kind": "hybrid", **named}, "schedule": HYBRID},
    }
    return {name: stage_of(**settings) for name, settings in chosen.items()}


def _encoder(path: Path) -> dict[str, Any]:
    return {"kind": "sam" if path.suffix == ".safetensors" else "published", "checkpoint": path}


def stage_of(*, objective: Mapping[str, float] | None = None, **settings: Any) -> Invert:  # noqa: ANN401  # of a stage
    """Return the demo's `invert` with other settings, and other weights of the objective."""
    given = {"schedule": Schedule(steps=STEPS, learning_rate=RATE), "batch": BATCH} | settings
    weights = OBJECTIVE.model_copy(update=dict(objective or {}))
    return Invert.model_validate({**_networks(), "objective": weights, **given})


def _networks() -> dict[str, Any]:
    return {
        "generator": GeneratorSource(checkpoint=ASSETS / "generator.safetensors"),
        "perceptual": PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
        "precision": "fp32",  # whatever the processor prefers: figures of two machines can be compared
    }


# ---- scenes


def held_out(count: int) -> list[Sample]:
    """Return held-out scenes of the demo, two thirds of them with occluders that no training saw."""
    made = demo_samples("held-out-000000", count, UNSEEN)
    return [
        Sample(str(one["__key__"]), "held-out-000000", {n: _bytes(v) for n, v in one.items() if n != "__key__"})
        for one in made
    ]


def assigned(samples: Sequence[Sample], device: torch.device) -> list[Sample]:
    """Return samples with the assignment that their achieved errors give at the demo's threshold."""
    stage = ErrorMaps.model_validate(
        {
            **_networks(),
            "objective": OBJECTIVE,
            "schedule": Schedule(steps=STEPS, learning_rate=0.15),
            "start": DRAWS,
            "batch": 4 * BATCH,
            "image": {"apart": ("occluder.png", "seg.png")},
        }
    )
    found = []
    for sample, record in zip(samples, stage.setup(device)(samples), strict=True):
        assert isinstance(record, Record)
        labels_HW = decode_values(sample.members["seg.png"], "seg.png")[0].astype(np.int32)
        assignment_HW = assign_spaces(record.arrays["error_LHW"].astype(np.float32), labels_HW, THRESHOLD)
        members = {name: sample.members[name] for name in ("png", "json")}
        maps = {"refine_maps": Record(sample.key, {}, {"assignment_HW": assignment_HW})}
        found.append(replace(sample, members=members, records=maps))
    return found


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


# ---- figures


@dataclass(frozen=True)
class _Inverted:
    records: Sequence[Record]
    seconds: float

    def mean(self, column: str, keep: Callable[[Record], bool] = lambda record: True) -> float:
        """Return the mean of a column over some records."""
        return statistics.fmean(float(str(record.row[column])) for record in self.records if keep(record))


def _inverted(stage: Invert, scenes: Sequence[Sample], device: torch.device) -> _Inverted:
    work = stage.setup(device)
    started = time.perf_counter()
    records = [record for record in work(scenes) if isinstance(record, Record)]
    seconds = time.perf_counter() - started
    assert len(records) == len(scenes), "no scene may fail"
    return _Inverted(records, seconds)


def _figures(stage: Invert, scenes: Sequence[Sample], device: torch.device) -> dict[str, float]:
    found = _inverted(stage, scenes, device)
    occluded = {scene.key for scene in scenes if json.loads(scene.members["json"])["occluder"] is not None}
    return {
        "psnr_db": round(found.mean("psnr_db"), 2),
        "psnr_db_occluded": round(found.mean("psnr_db", lambda record: record.key in occluded), 2),
        "lpips": round(found.mean("lpips"), 4),
        "seconds_per_image": round(found.seconds / len(scenes), 4),
        "steps": round(found.mean("steps"), 1),
    }


# ---- starts


Tried = Mapping[int, Mapping[str, float]]
"""Loss and PSNR of a start, by the number of steps."""


def _compared_starts(encoder: Path, scenes: Sequence[Sample], device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Return the steps from each start to the losses that the demo's steps reach from the mean and learnt starts."""
    with tempfile.TemporaryDirectory() as folder:
        starts: dict[str, dict[str, Any]] = {"mean": {"kind": "mean"}, "learnt": DRAWS}
        starts["bundle"] = _earlier(scenes, Path(folder), device)
        starts["encoder"] = {"kind": "encoder", "encoder": _encoder(encoder)}
        tried = {
            name: _tried(start, scenes, QUICK_SHARES if quick else SHARES, device) for name, start in starts.items()
        }
        default = {} if quick else {"default_schedules": _by_default(starts, scenes, device)}
    equal_loss, loss_of_learnt = tried["mean"][STEPS]["loss"], tried["learnt"][STEPS]["loss"]
    return {
        "equal_loss": equal_loss,
        "steps_to_equal_loss": {name: _steps_to(equal_loss, of_start) for name, of_start in tried.items()},
        "loss_of_learnt": loss_of_learnt,
        "steps_to_loss_of_learnt": {name: _steps_to(loss_of_learnt, of_start) for name, of_start in tried.items()},
        "schedules": {name: {str(n): figures for n, figures in of_start.items()} for name, of_start in tried.items()},
        **default,
    }


def _steps_to(loss: float, tried: Tried) -> int | None:
    return min((steps for steps, figures in tried.items() if figures["loss"] <= loss), default=None)


def _tried(start: Mapping[str, Any], scenes: Sequence[Sample], shares: Sequence[float], device: torch.device) -> Tried:
    tried = {}
    schedule = HYBRID if start["kind"] in ("encoder", "bundle") else Schedule(learning_rate=RATE)
    for steps in (max(1, round(share * STEPS)) for share in shares):
        stage = stage_of(start=dict(start), schedule=schedule.model_copy(update={"steps": steps}))
        tried[steps] = _reached(stage, scenes, device)
    return tried


def _by_default(
    starts: Mapping[str, Mapping[str, Any]], scenes: Sequence[Sample], device: torch.device
) -> dict[str, dict[str, float]]:
    """Return what the default schedule of each start reaches."""
    stages = {name: stage_of(start=dict(start), schedule=None) for name, start in starts.items()}
    few = scenes[:BATCH]  # these are many more steps than those of the demo
    return {name: {"steps": stage.schedule.steps, **_reached(stage, few, device)} for name, stage in stages.items()}


def _reached(stage: Invert, scenes: Sequence[Sample], device: torch.device) -> dict[str, float]:
    found = _inverted(stage, scenes, device)
    return {"loss": found.mean("loss"), "psnr_db": round(found.mean("psnr_db"), 2)}


def _earlier(scenes: Sequence[Sample], folder: Path, device: torch.device) -> dict[str, Any]:
    """Return a start at codes of an inversion in W+ of half the demo's steps."""
    stage = stage_of(
        method={"kind": "optimise", "spaces": "W+"},
        start=DRAWS,
        schedule=Schedule(steps=STEPS // 2, learning_rate=RATE),
    )
    records = _inverted(stage, scenes, device).records
    np.save(folder / "codes.npy", np.stack([np.asarray(record.row["w_plus"], np.float32) for record in records]))
    write_keys(folder / "codes.csv", [(scene.shard, scene.key) for scene in scenes])
    return {"kind": "bundle", "codes": folder / "codes.npy"}


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
