"""The engine's speed at several widths, and the memory that each takes.

    python -m benchmarks.widths [--quick] --json FILE [--device cpu] [--widths 1 4 16 64]

`step_ms`: one step of a full batch, the median of several, after steps that do not count. `images_per_second`: images
over `step_ms`, and `ratio` the same relative to the first width. A width whose batch does not fit into memory has
`fits: false` and no figures. The case is that of `benchmarks.inversion`: StyleGAN2 config-f of 256 px and LPIPS-VGG
with random weights, with --quick the demo's networks; every image has a stripe per space. The precision is that which
`precision: auto` chooses on the device; nothing is compiled.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.timing import seconds_of
from benchmarks.inversion import Case, config_f, demo_networks, inverter_of, stripes
from benchmarks.supervision import SEED, scenes
from stages.base.device import choose_kernels
from stages.engine.slots import Slots
from stages.images.image_member import pixels_of
from stages.inversion.viewer import Photograph
from stages.maps.region import fit
from stages.objective.precision import computed_in

WIDTHS, QUICK_WIDTHS = (1, 4, 16, 64), (1, 2)
STEPS, QUICK_STEPS = 12, 2
WARM_STEPS, QUICK_WARM_STEPS = 4, 1


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if not even the first width fits."""
    parser = parser_of("widths", __doc__, "the demo's networks, few steps")
    parser.add_argument("--widths", type=int, nargs="+", metavar="N", help="images in the engine's batch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    report = report_of(
        torch.device(options.device),
        options.widths or (QUICK_WIDTHS if options.quick else WIDTHS),
        *((QUICK_WARM_STEPS, QUICK_STEPS) if options.quick else (WARM_STEPS, STEPS)),
        quick=options.quick,
    )
    write_report(options.json, report)
    return 0 if report["results"][0]["fits"] else 1


def report_of(
    device: torch.device, widths: Sequence[int], warm_steps: int, steps: int, *, quick: bool
) -> dict[str, Any]:
    """Return the figures of every width."""
    precision = computed_in("auto", device)
    networks = demo_networks if quick else partial(config_f, 256)
    name = "demo 64" if quick else "config-f 256"
    case = Case(name, networks, images=1, steps=warm_steps + steps + 1, precision=precision)
    choose_kernels(precision)
    rows: list[dict[str, Any]] = []
    for width in widths:
        row = _row(case, width, warm_steps, steps, device)
        if row["fits"] and rows and rows[0]["fits"]:
            row["ratio"] = round(row["images_per_second"] / rows[0]["images_per_second"], 2)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row)
    return {
        "benchmark": "widths",
        "results": rows,
        "case": name,
        "precision": precision,
        "steps": steps,
        "units": {
            "step_ms": "ms of one step of the batch, median",
            "images_per_second": "images that take one step, per second",
            "ratio": "images per second over those of the first width",
            "peak_memory_mb": "MiB of the GPU's memory; none on a CPU",
        },
        "quick": quick,
        "seed": SEED,
        **circumstances(device),
    }


def _row(case: Case, width: int, warm_steps: int, steps: int, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        slots = _full_slots(case, width, device)
        for _ in range(warm_steps):
            slots.step()
        step_s = statistics.median(seconds_of(slots.step, device) for _ in range(steps))
    except torch.OutOfMemoryError:
        return {"width": width, "fits": False}
    return {
        "width": width,
        "fits": True,
        "step_ms": round(1000 * step_s, 3),
        "images_per_second": round(width / step_s, 3),
        "peak_memory_mb": torch.cuda.max_memory_allocated(device) >> 20 if on_gpu else None,
    }


def _full_slots(case: Case, width: int, device: torch.device) -> Slots:
    """Return the engine's batch with an image in every slot."""
    inverter = inverter_of(replace(case, images=width, width=width), device)
    masks = inverter.masks(stripes(inverter)[None])
    images = [fit(pixels_of(scene), inverter.region).to(device) for scene in scenes(width)]
    slots = Slots(inverter.loss(), width)
    slots.enter([inverter.item(Photograph(image_3HW, image_3HW), masks) for image_3HW in images])
    return slots


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
