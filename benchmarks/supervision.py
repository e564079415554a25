"""Supervision at scale: error_maps against a plain loop, and predict_maps against its network alone.

    python -m benchmarks.supervision [--quick] --json FILE [--device cpu]

`ratio_supervision`: images per hour of the stage over those of a loop that, as the authors' code does, takes one image
in one space at a time and computes the target's features again in every step; equal images, steps and objective.
`share_of_bare_forward`: images per second of the predict_maps worker, decoding and record making included, over those
of the same segmenter on batches that are on the device already. On a CPU both sides run the network on one thread, so
on one core; the worker decodes and makes records on other threads, for which it needs a second core, and the bare
network has no use for one. `share_of_bare_forward_committed`: the same for all that an actor does, with as many cores:
units are read from a shard, computed, packed and committed to a folder, as many in flight as an actor holds. Sides take
turns in one process; figures are medians over the turns. All of it on the demo's generator, scenes and perceptual
distance.
`memory_growth_mb`: by how much the peak memory of the segmenter's training on 20,000 examples (quick: 5,000) exceeds
that on 1,000; examples of demo size, each training in a process of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.timing import median_ratio, seconds_of
from benchmarks.harness.training_memory import memory_growth
from benchmarks.references.plain_loop import invert_plainly
from generators.source import GeneratorSource
from infra.receipts import Ledger
from infra.shards.shards import write_shard
from infra.stores.folder import FolderStore
from pipeline.config import RunConfig
from pipeline.data import inventory
from pipeline.data.units import Selection, cut
from pipeline.demo.occluders import SEEN
from pipeline.demo.write_shards import demo_samples
from pipeline.execution.hosts import IN_FLIGHT
from pipeline.jobs.inventory_job import InventoryJob
from pipeline.jobs.map_job import MapJob
from stages.base.batched_worker import PREPARING
from stages.base.stage import Record, Sample
from stages.engine.schedule import Schedule
from stages.error_maps import ErrorMaps
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.maps.region import Region, fit
from stages.maps.spaces import column
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from stages.predict_maps import PredictMaps
from stages.segmenter.network import SegmenterNetwork, load_segmenter, new_segmenter, save_segmenter

SEED = 0
TRAINED = 1000  # examples of the smaller training
ASSETS = Path(__file__).parents[1] / "pipeline/demo/assets"
OBJECTIVE = Objective(lambda_lpips=0.2, lambda_variation=1e-4, lambda_delta=1.0, shrinkage=1e-3)  # the demo's
CLOSE_DB = 0.1
"""Maximum difference of the two sides' mean PSNR; beyond it, their work differs. Single inversions differ more,
because Adam multiplies rounding; in float64 both sides agree to 1e-11 dB."""
UNIT_SAMPLES: int = RunConfig.model_fields["unit_samples"].default


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if the two sides of error_maps disagree."""
    parser = parser_of("supervision", __doc__, "fewer images and steps; within 5 minutes on 2 cores")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device = torch.device(options.device)
    sizes = (4, 12, 512, 5000) if options.quick else (12, 50, 2048, 20000)
    report = _report(*sizes, turns=3, device=device, quick=options.quick)
    for name in ("ratio_supervision", "share_of_bare_forward", "share_of_bare_forward_committed", "memory_growth_mb"):
        print(f"{name} {report[name]}")
    write_report(options.json, report)
    return 0 if abs(report["mean_difference_db"]) <= CLOSE_DB else 1


def _report(
    images: int, steps: int, predicted: int, trained: int, *, turns: int, device: torch.device, quick: bool
) -> dict[str, Any]:
    started = time.perf_counter()
    supervision = _supervision(scenes(images), steps, turns, device)
    prediction = _prediction(scenes(images), predicted, turns, device)
    return {
        "benchmark": "supervision",
        **supervision,
        **prediction,
        **memory_growth(min(trained, TRAINED), trained),
        "units": {
            "ratio_supervision": "images per hour of the stage over those of the plain loop",
            "share_of_bare_forward": "images per second of the worker over those of the bare network",
            "share_of_bare_forward_committed": "images per second read, computed, committed over those of the network",
            "mean_difference_db": "dB of PSNR, stage minus loop, mean over images and spaces",
            "largest_difference_db": "dB of PSNR, of one image in one space",
            "memory_growth_mb": "MiB of peak resident memory, of the larger training over the smaller",
        },
        "quick": quick,
        "turns": turns,
        "seed": SEED,
        **circumstances(device),
        "seconds": round(time.perf_counter() - started, 1),
    }


# ---- error_maps


def _supervision(samples: Sequence[Sample], steps: int, turns: int, device: torch.device) -> dict[str, Any]:
    stage = ErrorMaps(
        generator=GeneratorSource(checkpoint=ASSETS / "generator.safetensors"),
        perceptual=PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
        objective=OBJECTIVE,
        schedule=Schedule(steps=steps, learning_rate=0.2),
        precision="fp32",  # the loop's
    )
    worker, inverter = stage.setup(device), stage.inverter(device)
    ours: dict[tuple[str, str], float] = {}
    plain: dict[tuple[str, str], float] = {}

    def run_stage() -> None:
        for record in worker(samples):
            assert isinstance(record, Record)
            for space in inverter.generator.spaces:
                ours[record.key, space] = float(str(record.row[f"psnr_db_{column(space)}"]))

    def run_plain() -> None:
        for sample in samples:
            for space in inverter.generator.spaces:
                plain[sample.key, space] = _plain_psnr_db(inverter, sample, space, device)

    stage_s, plain_s = _in_turns(run_stage, run_plain, turns, device)
    differences = [ours[item] - plain[item] for item in plain]
    return {
        "ratio_supervision": median_ratio(plain_s, stage_s),
        "stage_images_per_hour": round(3600 * len(samples) / statistics.median(stage_s), 1),
        "plain_images_per_hour": round(3600 * len(samples) / statistics.median(plain_s), 1),
        "mean_difference_db": round(statistics.mean(differences), 4),
        "largest_difference_db": round(max(map(abs, differences)), 4),
        "error_maps": {
            "images": len(samples),
            "spaces": inverter.generator.spaces,
            "steps": steps,
            "batch": stage.batch,
        },
    }


def _plain_psnr_db(inverter: Inverter, sample: Sample, space: str, device: torch.device) -> float:
    """Invert one image in one space, keep nothing from step to step, and return its PSNR."""
    image_13HW = fit(pixels_of(sample), inverter.region)[None].to(device)
    masks = inverter.everywhere(space)
    codes, _ = invert_plainly(inverter, image_13HW, masks)
    return float(inverter.measure(inverter.picture(codes), image_13HW).psnr_db)


# ---- predict_maps


def _prediction(scenes: Sequence[Sample], count: int, turns: int, device: torch.device) -> dict[str, Any]:
    samples = [Sample(f"{i:06d}", "shard", scenes[i % len(scenes)].members) for i in range(count)]
    network = SegmenterNetwork(backbone="light")
    side_px = pixels_of(scenes[0]).shape[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "segmenter.safetensors"
        path.write_bytes(save_segmenter(new_segmenter(network, ("W+", "F2", "F4", "F6"), SEED), "random"))
        stage = PredictMaps(segmenter=path, region=Region.whole(side_px))
        worker, segmenter = stage.setup(device), load_segmenter(path, device)
        batches = (
            torch.stack([fit(pixels_of(sample), stage.region) for sample in samples]).to(device).split(stage.batch)
        )

        def run_worker() -> None:
            assert sum(isinstance(record, Record) for record in worker(samples)) == count

        @torch.no_grad()
        def run_bare() -> None:
            for batch_N3HW in batches:
                segmenter(batch_N3HW)

        run_bare()  # the first pass is slower
        worker_s, bare_s = _in_turns(run_worker, run_bare, turns, device)
        actor_s, beside_s = _in_turns(_actor(stage, samples, folder), run_bare, turns, device)
    return {
        "share_of_bare_forward": median_ratio(bare_s, worker_s),
        "share_of_bare_forward_committed": median_ratio(beside_s, actor_s),
        "worker_images_per_second": round(count / statistics.median(worker_s), 1),
        "committed_images_per_second": round(count / statistics.median(actor_s), 1),
        "bare_images_per_second": round(count / statistics.median(bare_s + beside_s), 1),
        "predict_maps": {
            "images": count,
            "side_px": side_px,
            "batch": stage.batch,
            "backbone": network.backbone,
            "unit_samples": UNIT_SAMPLES,
            "units_in_flight": IN_FLIGHT,
            "preparing_threads": PREPARING,
            "cores": os.cpu_count(),
        },
    }


def _actor(stage: PredictMaps, samples: Sequence[Sample], folder: Path) -> Callable[[], None]:
    """Return an actor's work on a stage: units of a shard are read, computed and committed, again at every call."""
    shards, ledger = FolderStore(folder / "shards"), Ledger(FolderStore(folder / "store"))
    shards.root.mkdir()
    write_shard(shards.root / "scenes.tar", [{"__key__": sample.key, **sample.members} for sample in samples])
    InventoryJob((shards,), ledger).open()(inventory.ListedShard(0, next(iter(shards.list()))))
    receipt = next(ledger.receipts(inventory.STAGE, inventory.FINGERPRINT))
    units = list(cut(inventory.shard_of(receipt), len(samples), UNIT_SAMPLES))
    job = MapJob(stage, "", (shards,), ledger, {}, {units[0].shard: receipt.unit}, Selection())
    turns = itertools.count()

    def run() -> None:
        run_unit = dataclasses.replace(job, fingerprint=f"turn-{next(turns)}").open()
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            assert sum(done.recorded for done in threads.map(run_unit, units)) == len(samples)

    return run


# ---- measuring


def scenes(count: int) -> list[Sample]:
    """Return the demo's scenes."""
    made = demo_samples("supervision-000000", count, SEEN, SEED)
    return [Sample(str(one["__key__"]), "shard", {"png": _bytes(one["png"])}) for one in made]


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _in_turns(
    first: Callable[[], None], second: Callable[[], None], turns: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Return the seconds of each turn of both, after one turn that does not count because the device warms up."""
    if device.type == "cuda":
        first()
        second()
    pairs = [(seconds_of(first, device), seconds_of(second, device)) for _ in range(turns)]
    return [a for a, _ in pairs], [b for _, b in pairs]


if __name__ == "__main__":
    sys.exit(main())
