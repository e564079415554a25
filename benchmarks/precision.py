"""The cost of half precision, in loss of an inversion.

    python -m benchmarks.precision [--quick] --json FILE [--device cpu]

The same images are inverted in float32, in float32 with other rounding (in batches narrower by one), in bf16 and in
fp16. Every loss is that of the codes found, computed in float32. `excess`: the mean final loss over that of float32,
minus 1; `excess_error`: its standard error over the images, in pairs. Adam amplifies rounding until single images
differ by percents; the second row shows by how much without half precision. A device without
half-precision products gets `TensorCores`, the same numbers at the speed of float32.

Cases: the demo's generator on its scenes, each image in one space in turn; without --quick StyleGAN2 config-f of 256 px
and LPIPS-VGG, both with random weights, on images that the generator itself makes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.descent import invert_all
from benchmarks.inversion import Case, config_f, demo_networks, inverter_of
from benchmarks.optimisations import Work, fitted_scenes
from benchmarks.references.tensor_cores import TensorCores
from benchmarks.supervision import SEED
from generators.latents import Codes
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.objective.precision import Computed

WITHIN = 0.01
"""Maximum excess of half precision, relative to the loss in float32."""
WIDTH = 16


@dataclass(frozen=True)
class Trial:
    """The images and networks of a comparison."""

    case: Case
    targets: Callable[[Inverter, int], list[Tensor]]
    learning_rate: float = 0.1


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if it costs too much, by two standard errors."""
    parser = parser_of("precision", __doc__, "few steps of the demo only; within 5 minutes on 2 cores")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = [row for trial in _trials(quick=options.quick) for row in rows_of(trial, device)]
    report = {
        "benchmark": "precision",
        "rows": rows,
        "emulated": {precision: _emulated(precision, device) for precision in ("bf16", "fp16")},
        "quick": options.quick,
        "seed": SEED,
        **circumstances(device),
    }
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    write_report(options.json, report)
    return int(any(row["excess"] - 2 * row["excess_error"] > WITHIN for row in rows))


def _trials(*, quick: bool) -> list[Trial]:
    images, steps = (WIDTH, 24) if quick else (6 * WIDTH, 100)
    demo = Trial(Case("demo 64", demo_networks, images, steps, WIDTH), fitted_scenes)
    large = Trial(Case("config-f 256", partial(config_f, 256), images=4, steps=8, width=2), _own_images, 0.005)
    return [demo] if quick else [demo, large]


def _own_images(inverter: Inverter, count: int) -> list[Tensor]:
    """Return images of w half as far from the mean as draws are, so that few steps suffice."""
    random = torch.Generator().manual_seed(SEED)
    z = torch.randn(count, inverter.generator.z_dim, generator=random).to(inverter.prior.mean_w.device)
    with torch.no_grad():
        w_NRD = inverter.generator.map(z)
        w_NRD = torch.lerp(inverter.prior.mean_w.to(w_NRD.dtype), w_NRD, 0.5)
        return list(inverter.generator.synthesize(w_NRD).clamp(-1, 1).split(1))


def rows_of(trial: Trial, device: torch.device) -> list[dict[str, Any]]:
    """Return one row per way of computing: its mean final loss, and its excess over float32's."""
    case = trial.case
    schedule = Schedule(steps=case.steps, learning_rate=trial.learning_rate)
    inverter = replace(inverter_of(case, device), schedule=schedule)
    work = Work.from_images(inverter, trial.targets(inverter, case.images))
    ways: Mapping[str, tuple[Computed, int]] = {
        "fp32": ("fp32", case.width),
        "fp32 rounded otherwise": ("fp32", case.width - 1),
        "bf16": ("bf16", case.width),
        "fp16": ("fp16", case.width),
    }
    losses = {name: _final_losses(work, precision, width) for name, (precision, width) in ways.items()}
    start = statistics.mean(_losses(work, [item.start for item in work.items(everywhere=False)]))
    return [_row(name, case, start, losses[name], losses["fp32"]) for name in ways]


def _final_losses(work: Work, precision: Computed, width: int) -> list[float]:
    """Return the final loss of each image."""
    half = replace(work, inverter=replace(work.inverter, precision=precision))
    with _products(precision, half.inverter.prior.mean_w.device):
        found = invert_all(half.inverter.loss(), half.items(everywhere=False), width)
    return _losses(work, [one.codes for one in found])


def _losses(work: Work, codes: Sequence[Codes]) -> list[float]:
    """Return the loss of each image's codes, in float32."""
    loss = work.inverter.loss()
    with torch.no_grad():
        pairs = zip(codes, work.images, strict=True)
        return [float(loss(one, work.inverter.target(image)).sum()) for one, image in pairs]


def _row(name: str, case: Case, start: float, losses: Sequence[float], wanted: Sequence[float]) -> dict[str, Any]:
    more = [a - b for a, b in zip(losses, wanted, strict=True)]
    mean = statistics.mean(wanted)
    return {
        "case": case.name,
        "name": name,
        "loss_at_start": start,
        "loss": statistics.mean(losses),
        "excess": statistics.mean(more) / mean,
        "excess_error": statistics.stdev(more) / len(more) ** 0.5 / mean,
        "images": case.images,
        "steps": case.steps,
    }


def _products(precision: Computed, device: torch.device) -> AbstractContextManager[object]:
    if not _emulated(precision, device):
        return nullcontext()
    return TensorCores()  # type: ignore[no-untyped-call]  # torch's


def _emulated(precision: Computed, device: torch.device) -> bool:
    """Return whether a device lacks products of a half precision."""
    if precision == "fp32" or device.type == "cuda":
        return False
    return not torch.cpu.get_capabilities().get({"bf16": "avx512_bf16", "fp16": "avx512_fp16"}[precision])


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
