"""The encoder regime of SAM: its speed against bare networks and the optimiser, its fidelity against W+ optimisation.

    python -m benchmarks.encoder [--quick] --json FILE [--device cpu]

On the demo's generator, encoder and held-out scenes, whose occluders no network was trained on; the occluder is
assigned to F6 and all else to W+, as a perfect map would.

`share_of_bare_forward`: images per second of `invert` with `sam_encoder`, decoding, packing and measuring included,
over those of the same networks (encoder, generator, perceptual distance) on batches that are on the device already. On
a CPU both sides run networks on one thread; the worker decodes and makes records on others. Sides take turns.
`share_of_bare_cpu`: seconds of the processor of the bare networks over those of the worker, all threads together: it
does not depend on other work of the machine.
`psnr_db`: mean over occluded scenes, of the codes as stored: `sam_encoder`, and optimised for the demo's steps in W+
(`w_plus`) and in the assigned spaces (`sam`).
`speed_up`: images per hour of the encoder regime over those of SAM optimisation with the demo's steps, and with the
thesis's 1,001 (`speed_up_1001`; seconds per step are the same).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.command import circumstances, parser_of, write_report
from generators.source import GeneratorSource
from pipeline.demo.occluders import UNSEEN
from pipeline.demo.scenes import LABELS
from pipeline.demo.write_shards import demo_samples
from stages.base.stage import Record, Sample
from stages.engine.schedule import Schedule
from stages.images.image_member import pixels_of
from stages.inversion.encoders import SamEncoderFile
from stages.inversion.encoders.encoder import acting
from stages.inversion.methods import FromSamEncoder, Method, Optimise
from stages.inversion.methods.method import Assigned
from stages.inversion.starts import Learnt
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource

SEED = 0
ASSETS = Path(__file__).parents[1] / "pipeline/demo/assets"
ENCODER = ASSETS / "encoder.safetensors"
OBJECTIVE = Objective(lambda_lpips=0.2, lambda_variation=1e-4, lambda_delta=1.0, shrinkage=1e-3)  # the demo's
DEMO_STEPS, THESIS_STEPS = 50, 1001
F6 = 3  # index among the demo's spaces
WANTED_SHARE = 0.9


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures."""
    options = parser_of("encoder", __doc__, "fewer images; within 5 minutes on 2 cores").parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device = torch.device(options.device)
    report = _report(*((192, 12) if options.quick else (768, 48)), turns=3, device=device, quick=options.quick)
    for name in ("share_of_bare_forward", "share_of_bare_cpu", "psnr_db", "speed_up", "speed_up_1001"):
        print(f"{name} {report[name]}")
    write_report(options.json, report)
    return 0


def _report(images: int, optimised: int, *, turns: int, device: torch.device, quick: bool) -> dict[str, Any]:
    started = time.perf_counter()
    scenes = occluded_scenes(optimised)
    speed = _speed([scenes[i % len(scenes)] for i in range(images)], turns, device)
    fidelity = _fidelity(scenes, device)
    per_image_s = {name: fidelity["seconds_per_image"][name] for name in ("sam", "sam_encoder")}
    speed_up = per_image_s["sam"] / per_image_s["sam_encoder"]
    return {
        "benchmark": "encoder",
        **speed,
        **fidelity,
        "speed_up": round(speed_up, 1),
        "speed_up_1001": round(speed_up * THESIS_STEPS / DEMO_STEPS, 1),
        "targets": {"share_of_bare_forward": WANTED_SHARE, "speed_up": 100},
        "units": {
            "share_of_bare_forward": "images per second of the worker over those of the bare networks, median of turns",
            "share_of_bare_cpu": "seconds of the processor, bare networks over worker, median of turns",
            "psnr_db": "dB, mean over occluded held-out scenes",
            "seconds_per_image": "seconds of the processor, all threads",
            "speed_up": "images per hour over those of SAM optimisation, by seconds of the processor",
        },
        "quick": quick,
        "turns": turns,
        "seed": SEED,
        **circumstances(device),
        "seconds": round(time.perf_counter() - started, 1),
    }


def occluded_scenes(count: int) -> list[Sample]:
    """Return held-out scenes with occluders, each with the assignment of a perfect map."""
    scenes = []
    for made in demo_samples("held-out-000000", 2 * count, UNSEEN, SEED):
        key, png, labels = str(made["__key__"]), _bytes(made["png"]), _bytes(made["seg.png"])
        labels_HW3 = pixels_of(Sample(key, "shard", {"png": labels}))
        occluded_HW = labels_HW3[..., 0] == LABELS.index("occluder")
        if occluded_HW.any():
            record = Record(key, {}, {"assignment_HW": np.where(occluded_HW, F6, 0).astype(np.uint8)})
            scenes.append(Sample(key, "shard", {"png": png}, {"refine_maps": record}))
    return scenes[:count]


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def stage_of(method: Method) -> Invert:
    """Return the demo's `invert` with a method."""
    return Invert(
        generator=GeneratorSource(checkpoint=ASSETS / "generator.safetensors"),
        perceptual=PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
        objective=OBJECTIVE,
        precision="fp32",  # that of the bare networks
        schedule=Schedule(steps=DEMO_STEPS, learning_rate=0.1),
        start=Learnt(),
        method=method,
    )


def encoding() -> Invert:
    """Return `invert` in the encoder regime, with the demo's encoder."""
    return stage_of(FromSamEncoder(checkpoint=ENCODER))


def _speed(samples: Sequence[Sample], turns: int, device: torch.device) -> dict[str, Any]:
    stage = encoding()
    worker, viewer = stage.setup(device), stage.viewer(device)
    encoder = SamEncoderFile(checkpoint=ENCODER).load(viewer)
    images = [
        Assigned(
            stage.photograph(sample, pixels_of(sample), viewer),
            sample.records["refine_maps"].arrays["assignment_HW"].astype(np.uint8),
        )
        for sample in samples
    ]
    size = stage.batch if isinstance(stage.batch, int) else 16
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    targets = [torch.stack([one.photograph.image_3HW for one in batch]).to(device) for batch in batches]

    def run_worker() -> None:
        assert sum(isinstance(record, Record) for record in worker(samples)) == len(samples)

    @torch.no_grad()
    def run_bare() -> None:
        for batch, target in zip(batches, targets, strict=True):
            assignment_NHW = np.stack([image.assignment_HW for image in batch])
            codes = encoder.encode([image.photograph for image in batch], assignment_NHW)
            viewer.measure(viewer.picture(acting(codes, viewer.masks(assignment_NHW))), target)

    run_bare()  # the first pass is slower
    pairs = [(_seconds(run_bare, device), _seconds(run_worker, device)) for _ in range(turns)]
    return {
        "share_of_bare_forward": round(statistics.median(bare[0] / worker[0] for bare, worker in pairs), 3),
        "share_of_bare_cpu": round(statistics.median(bare[1] / worker[1] for bare, worker in pairs), 3),
        "worker_images_per_second": round(len(samples) / statistics.median(worker[0] for _, worker in pairs), 1),
        "bare_images_per_second": round(len(samples) / statistics.median(bare[0] for bare, _ in pairs), 1),
        "images": len(samples),
        "batch": size,
    }


def _fidelity(scenes: Sequence[Sample], device: torch.device) -> dict[str, Any]:
    stages = {"sam_encoder": encoding(), "w_plus": stage_of(Optimise(spaces="W+")), "sam": stage_of(Optimise())}
    psnr_db, seconds = dict[str, float](), dict[str, float]()
    for name, stage in stages.items():
        worker = stage.setup(device)
        list(worker(scenes[:1]))  # the first call is slower
        records: list[Record] = []

        def run() -> None:
            records.extend(record for record in worker(scenes) if isinstance(record, Record))  # noqa: B023

        taken = _seconds(run, device)[1]
        assert len(records) == len(scenes)
        psnr_db[name] = round(statistics.mean(float(str(record.row["psnr_db"])) for record in records), 2)
        seconds[name] = round(taken / len(scenes), 5)
    return {"psnr_db": psnr_db, "seconds_per_image": seconds, "scenes": len(scenes), "steps": DEMO_STEPS}


def _seconds(run: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Return the seconds that pass, and those of the processor; on a GPU both are those that pass."""
    started, processor = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        passed = time.perf_counter() - started
        return passed, passed
    return time.perf_counter() - started, time.process_time() - processor


if __name__ == "__main__":
    sys.exit(main())
