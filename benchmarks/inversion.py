"""The inversion engine against the loop of the authors' code, on equal work.

    python -m benchmarks.inversion [--quick] --json FILE [--device cpu] [--width 16]

Both sides invert the same images with the same masks, every space in a stripe of its own, in as many steps, in one
process and in turns. `ratio`: images per hour of the engine over those of the loop, median over the turns.
`loss_plain`, `loss_engine`: mean final loss, which must agree within 1 %. `step_ms`: one step of the engine's batch.
`overhead_share`: of the engine's time, what is neither forward, backward nor Adam. `roofline_share`: counted FLOPs of a
step over its time, against the fastest of several matrix products of the same type in the same run. Cases: the demo's
generator and, without --quick, StyleGAN2 config-f of 256 px with random weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.references.plain_loop import invert_plainly
from benchmarks.supervision import ASSETS, OBJECTIVE, SEED, scenes
from generators.generator import Generator
from generators.prior import estimate_prior
from generators.stylegan2 import StyleGAN2, StyleGAN2Config
from stages.batch import Item
from stages.descent import loss_of
from stages.engine import in_turn
from stages.inverter import Inverter
from stages.perceptual import load_perceptual
from stages.region import Region, fit
from stages.schedule import Schedule
from stages.slots import invert_all
from stages.sources import GeneratorSource
from stages.step import Loss, adam

CLOSE = 0.01
"""Most by which the sides' mean final losses may differ, relative: else they do not do the same work."""
MATMULS = (512, 1024, 2048)
"""Sides of the matrix products of which the fastest is the roofline."""


@dataclass(frozen=True)
class Case:
    """A generator, and how much is inverted in it."""

    name: str
    generator: Callable[[], Generator]
    images: int
    steps: int


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; 1 if the final losses of the two sides disagree."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inversion", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures are written")
    parser.add_argument("--quick", action="store_true", help="the demo only, few steps; within 5 minutes on 2 cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--width", type=int, default=16, help="images in the engine's batch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device = torch.device(options.device)
    images = options.width * (1 if options.quick else 3)
    cases = [Case("demo 64", _demo, images, 12 if options.quick else 60)]
    cases += [] if options.quick else [Case("config-f 256", _config_f, options.width, 10)]
    measured = [_measure(case, options.width, device, turns=1 if options.quick else 3) for case in cases]
    report = {
        "benchmark": "inversion",
        "cases": measured,
        "units": {
            "ratio": "images per hour of the engine over those of the plain loop",
            "loss_plain": "weighted loss before the last step, mean over images",
            "loss_engine": "the same",
            "step_ms": "ms of one step of the engine's batch",
            "overhead_share": "of the engine's time, what is neither forward, backward nor Adam",
            "roofline_share": "FLOP/s of the engine over those of the fastest matrix product",
        },
        "quick": options.quick,
        "seed": SEED,
        "versions": {"python": platform.python_version(), "torch": version("torch"), "numpy": np.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%d"),
    }
    for one in measured:
        print(", ".join(f"{name} {value}" for name, value in one.items()))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(abs(one["loss_engine"] / one["loss_plain"] - 1) > CLOSE for one in measured))


def _measure(case: Case, width: int, device: torch.device, *, turns: int) -> dict[str, Any]:
    inverter = _inverter(case, device)
    images = [fit(scene.image(), inverter.region)[None].to(device) for scene in scenes(case.images)]
    masks = inverter.masks(_stripes(inverter)[None])
    items = [partial(_item, inverter, image, masks) for image in images]
    loss_plain: list[float] = []
    loss_engine: list[float] = []
    watch = Stopwatch(partial(_wait, device))

    def plain() -> None:
        loss_plain[:] = [invert_plainly(inverter, image, masks)[1] for image in images]

    def ours() -> None:
        with watch.on_steps():
            engine = inverter.engine(width)
            found = list(in_turn([engine.submit(item) for item in items]))
        loss_engine[:] = [float(one.trace.terms["total"][-1, 0]) for one in found]

    pairs = [(_seconds(plain, watch.wait), _seconds(ours, watch.wait)) for _ in range(turns)]
    engine_s = statistics.median(b for _, b in pairs)
    steps = case.steps * -(-case.images // width)
    flops = _flops_of_a_step(inverter, items[0], width)
    return {
        "name": case.name,
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
        "loss_plain": statistics.mean(loss_plain),
        "loss_engine": statistics.mean(loss_engine),
        "step_ms": round(1000 * engine_s / steps, 2),
        "overhead_share": round(1 - watch.seconds / sum(b for _, b in pairs), 4),
        "roofline_share": round(flops * steps / engine_s / _matmul_flops(device, watch.wait), 3),
        "gflop_a_step": round(flops / 1e9, 2),
        "images": case.images,
        "steps": case.steps,
        "width": width,
    }


# ---- what is inverted


def _demo() -> Generator:
    return GeneratorSource(checkpoint=ASSETS / "generator.safetensors").load(torch.device("cpu"))


def _config_f() -> Generator:
    torch.manual_seed(SEED)
    config = StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=256, channel_base=32768, channel_max=512)
    return StyleGAN2(config).requires_grad_(False).eval()


def _inverter(case: Case, device: torch.device) -> Inverter:
    generator = case.generator().to(device)
    prior = estimate_prior(generator, samples=1000, shrinkage=OBJECTIVE.shrinkage).to(device)
    perceptual = load_perceptual("small", ASSETS / "perceptual.safetensors", device)
    schedule = Schedule(steps=case.steps, learning_rate=0.1)
    return Inverter(generator, perceptual, prior, Region.whole(generator.resolution), OBJECTIVE, schedule)


def _stripes(inverter: Inverter) -> NDArray[np.uint8]:
    """Return an assignment `[H, W]` that gives every space a stripe."""
    height, width = inverter.region.size
    spaces = np.arange(width) * len(inverter.generator.spaces) // width
    return np.broadcast_to(spaces.astype(np.uint8), (height, width)).copy()


def _item(inverter: Inverter, image_13HW: Tensor, masks: dict[str, Tensor]) -> Item:
    return inverter.item(inverter.target(image_13HW), masks)


# ---- measuring


class Stopwatch:
    """Adds up the time that steps spend in forward, backward and Adam, wherever they run."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait, self.seconds = wait, 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is added."""

        def run(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  # whatever the function takes
            started = time.perf_counter()
            result = function(*arguments, **named)
            self.wait()
            self.seconds += time.perf_counter() - started
            return result

        return run

    @contextmanager
    def on_steps(self) -> Iterator[None]:
        """Time the parts of all steps of engines that are made inside."""

        def timed_loss_of(*arguments: Any) -> Loss:  # noqa: ANN401  # those of loss_of
            return self.timed(loss_of(*arguments))

        with (
            mock.patch("stages.inverter.loss_of", timed_loss_of),
            mock.patch("torch.autograd.grad", self.timed(torch.autograd.grad)),
            mock.patch("stages.step.adam", self.timed(adam)),
        ):
            yield


def _flops_of_a_step(inverter: Inverter, begin: Callable[[], Item], width: int) -> int:
    items = [replace(begin(), schedule=Schedule(steps=1))] * width
    with FlopCounterMode(display=False) as counter:
        invert_all(inverter.loss(), items, width)
    return int(counter.get_total_flops())


def _matmul_flops(device: torch.device, wait: Callable[[], None]) -> float:
    """Return the FLOP/s of the fastest of several float32 matrix products, each the best of three."""
    best = 0.0
    for side in MATMULS:
        a, b = torch.randn(2, side, side, device=device)
        seconds = min(_seconds(partial(torch.mm, a, b), wait) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
