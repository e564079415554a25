"""The inversion engine against the loop of the authors' code, on equal work.

    python -m benchmarks.inversion [--quick] --json FILE [--device cpu] [--width 16] [--case NAME] [--turns N]

(a) The loop inverts one image at a time in float32, computes its target again in every step, and modulates the weights
of the convolutions, as published; noise is the constant one. (b) The engine. Both invert the same images with the same
masks, every space in its own stripe, in as many steps, in one process, in a worker's environment and in turns.

`ratio`: images per hour of (b) over those of (a), median over the turns; `ratio_same_network`: the same where the loop
convolves like the engine. `loss_plain`, `loss_same_network`, `loss_engine`: mean final loss, which
must agree within 1 %. `step_ms`: one
step of the engine's batch. `overhead_share`: the engine's time except forward, backward and Adam.
`roofline_share`: counted FLOPs of a step over its time, against the fastest of several matrix products of the same type
in the same run. `compile_s`: time of compiling, included in no other figure. Cases: the demo's generator, plain and
compiled, and without --quick StyleGAN2 config-f of 256 px and, on a GPU, of 512 px, with random weights and LPIPS-VGG
with random weights; on devices with bf16 products also in bf16.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from lpips import pretrained_networks
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.descent import invert_all
from benchmarks.references.plain_loop import invert_plainly
from benchmarks.references.published_convolutions import published_convolutions
from benchmarks.supervision import ASSETS, OBJECTIVE, SEED, scenes
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from generators.prior import estimate_prior
from generators.source import GeneratorSource
from stages.base.device import choose_kernels
from stages.engine.adam import adam
from stages.engine.batch import Item
from stages.engine.compiled_loss import CompiledLoss
from stages.engine.engine import Engine, in_turn
from stages.engine.schedule import Schedule
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.inversion.starts import Mean
from stages.inversion.viewer import Photograph, Viewer
from stages.maps.region import Region, fit
from stages.objective.precision import Computed, computed_in
from stages.perceptual.backbones import PUBLISHED
from stages.perceptual.distance import Perceptual
from stages.perceptual.weights import load_perceptual

STEPS = 1001
"""Steps of the thesis's schedule, to which `images_per_hour` is scaled."""
CLOSE = 0.01
"""Maximum relative difference of the sides' mean final losses; beyond it, their work differs."""
MATMULS = (512, 1024, 2048)
"""Sides of the matrix products, the fastest of which is the roofline."""


@dataclass(frozen=True)
class Case:
    """The networks, images and settings of a comparison."""

    name: str
    networks: Callable[[], tuple[Generator, Perceptual]]
    images: int
    steps: int
    width: int = 16
    turns: int = 1
    precision: Computed = "fp32"
    compiles: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if the final losses of the two sides disagree."""
    parser = parser_of("inversion", __doc__, "the demo only; within 5 minutes on 2 cores")
    parser.add_argument("--width", type=int, default=16, help="images in the engine's batch")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case, even if bf16 is emulated")
    parser.add_argument("--turns", type=int, help="turns of the sides", metavar="N")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device = torch.device(options.device)
    cases = list(_cases(device, options.width, quick=options.quick, half=bool(options.case)))
    if options.case:
        cases = _named(cases, options.case)
    cases = [replace(case, turns=options.turns or case.turns) for case in cases]
    measured = [_measure(case, device) for case in cases]
    report = {
        "benchmark": "inversion",
        "cases": measured,
        "units": {
            "ratio": "images per hour of the engine over those of the plain loop",
            "ratio_same_network": "the same, of a loop that convolves like the engine",
            "loss_plain": "weighted loss before the last step, mean over images",
            "loss_same_network": "the same, of the loop that convolves like the engine",
            "loss_engine": "the same, of the engine",
            "step_ms": "ms of one step of the engine's batch",
            "overhead_share": "share of the engine's time except forward, backward and Adam",
            "roofline_share": "FLOP/s of the engine over those of the fastest matrix product",
            "compile_s": "seconds of compiling, without the first step",
            "peak_memory_mb": "MiB: of the device on a GPU, otherwise of the process so far",
        },
        "quick": options.quick,
        "seed": SEED,
        **circumstances(device),
    }
    for one in measured:
        print(", ".join(f"{name} {value}" for name, value in one.items()))
    write_report(options.json, report)
    sides = ("loss_plain", "loss_same_network")
    return int(any(abs(one["loss_engine"] / one[side] - 1) > CLOSE for one in measured for side in sides))


def _named(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Return some cases by name."""
    by_name = {case.name: case for case in cases}
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"there is no case {', '.join(unknown)}: choose from {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _cases(device: torch.device, width: int, *, quick: bool, half: bool = False) -> Iterator[Case]:
    count, steps, turns = (width, 24, 1) if quick else (2 * width, 40, 3)
    demo = Case("demo 64", demo_networks, count, steps, width, turns)
    yield from (demo, replace(demo, name="demo 64 compiled", compiles=True))
    half = half or computed_in("auto", device) == "bf16"
    if half:
        yield replace(demo, name="demo 64 bf16", precision="bf16")
        yield replace(demo, name="demo 64 bf16 compiled", precision="bf16", compiles=True)
    if quick:
        return
    gpu = device.type == "cuda"
    count, steps, turns = (width, 20, 3) if gpu else (2, 6, 1)  # a step of one image takes seconds on a CPU
    large = Case("config-f 256", partial(config_f, 256), count, steps, count, turns)
    yield from (large, replace(large, name="config-f 256 compiled", compiles=True))
    if half:
        yield replace(large, name="config-f 256 bf16", precision="bf16")
        yield replace(large, name="config-f 256 bf16 compiled", precision="bf16", compiles=True)
    if gpu:
        largest = replace(large, name="config-f 512", networks=partial(config_f, 512))
        yield from (largest, replace(largest, name="config-f 512 bf16 compiled", precision="bf16", compiles=True))


def _measure(case: Case, device: torch.device) -> dict[str, Any]:
    choose_kernels(case.precision)  # of the loop too
    inverter = inverter_of(case, device)
    images = [fit(pixels_of(scene), inverter.region)[None].to(device) for scene in scenes(case.images)]
    masks = inverter.masks(stripes(inverter)[None])
    items = [partial(_item, inverter, image, masks) for image in images]
    losses: dict[str, list[float]] = {}
    watch = Stopwatch(partial(_wait, device))
    full = replace(inverter, precision="fp32")
    loss = CompiledLoss(inverter.loss(), device) if case.compiles else inverter.loss()
    engine = Engine(watch.timed(loss), case.width)

    def plain(name: str = "plain") -> None:
        losses[name] = [invert_plainly(full, image, masks)[1] for image in images]

    def published() -> None:
        with published_convolutions():
            plain("published")

    def ours() -> None:
        found = list(in_turn([engine.submit(item) for item in items]))
        losses["engine"] = [float(one.trace.terms["total"][-1, 0]) for one in found]

    compile_s = _seconds(lambda: _step_once(engine, items[0]), watch.wait) if case.compiles else 0.0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps_s = [[_seconds(side, watch.wait) for side in (published, plain, ours)] for _ in range(case.turns)]
    with watch.on_steps():  # in a separate turn: it waits for the device after every part
        watched_s = _seconds(ours, watch.wait)
    engine_s = statistics.median(ours_s for *_, ours_s in steps_s)
    steps = case.steps * -(-case.images // case.width)
    flops = _flops_of_a_step(full, partial(_item, full, images[0], masks), case.width)
    return {
        "name": case.name,
        "ratio": round(statistics.median(a / c for a, _, c in steps_s), 2),
        "ratio_same_network": round(statistics.median(b / c for _, b, c in steps_s), 2),
        "loss_plain": statistics.mean(losses["published"]),
        "loss_same_network": statistics.mean(losses["plain"]),
        "loss_engine": statistics.mean(losses["engine"]),
        "step_ms": round(1000 * engine_s / steps, 2),
        "images_per_hour": round(3600 * case.images / engine_s * case.steps / STEPS, 2),
        "overhead_share": round(1 - watch.seconds / watched_s, 4),
        "roofline_share": round(flops * steps / engine_s / _matmul_flops(device, case.precision, watch.wait), 3),
        "gflop_a_step": round(flops / 1e9, 2),
        "compile_s": round(compile_s, 1),
        "peak_memory_mb": _peak_memory_mb(device),
        "images": case.images,
        "steps": case.steps,
        "width": case.width,
        "precision": case.precision,
        "layout": "contiguous" if case.precision == "fp32" else "channels-last",
        "compiled": case.compiles,
    }


def _step_once(engine: Engine, begin: Callable[[], Item]) -> None:
    engine.submit(lambda: replace(begin(), schedule=Schedule(steps=1))).result()


# ---- networks and images


def demo_networks() -> tuple[Generator, Perceptual]:
    """Return the demo's generator and perceptual distance."""
    generator = GeneratorSource(checkpoint=ASSETS / "generator.safetensors").load(torch.device("cpu"))
    return generator, load_perceptual("small", ASSETS / "perceptual.safetensors")


def config_f(side_px: int) -> tuple[Generator, Perceptual]:
    """Return networks of the published sizes, whose random weights cost as much as trained ones."""
    torch.manual_seed(SEED)
    config = StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=side_px, channel_base=32768, channel_max=512)
    generator = StyleGAN2(config).freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision's, of the argument `pretrained`
        backbone = pretrained_networks.vgg16(pretrained=False)
    heads = [torch.full((1, count, 1, 1), 1 / count) for count in PUBLISHED["vgg"].channels]
    vgg = Perceptual(backbone, heads, name="lpips-vgg (random)", digest="random", min_side_px=16)
    return generator, vgg


def inverter_of(case: Case, device: torch.device) -> Inverter:
    """Return the inverter of a case, with the demo's objective."""
    generator, perceptual = case.networks()
    prior = estimate_prior(generator.to(device), samples=1000, shrinkage=OBJECTIVE.shrinkage).to(device)
    viewer = Viewer(generator, perceptual.to(device), Region.whole(generator.resolution), generator.spaces)
    return Inverter(
        **vars(viewer),
        prior=prior,
        objective=OBJECTIVE,
        schedule=Schedule(steps=case.steps, learning_rate=0.1),
        begin=Mean().load(viewer, prior, OBJECTIVE, labelled=False),
        precision=case.precision,
        compiles=case.compiles,
    )


def stripes(inverter: Inverter) -> NDArray[np.uint8]:
    """Return an assignment `[H, W]` with a stripe per space."""
    height, width = inverter.region.size
    spaces = np.arange(width) * len(inverter.generator.spaces) // width
    return np.broadcast_to(spaces.astype(np.uint8), (height, width)).copy()


def _item(inverter: Inverter, image_13HW: Tensor, masks: dict[str, Tensor]) -> Item:
    return inverter.item(Photograph(image_13HW[0], image_13HW[0]), masks)


# ---- measuring


class Stopwatch:
    """Adds up the time that steps spend in forward, backward and Adam, wherever they run."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait, self.seconds, self.running = wait, 0.0, False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is added."""

        def run(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  # whatever the function takes
            if not self.running:
                return function(*arguments, **named)
            started = time.perf_counter()
            result = function(*arguments, **named)
            self.wait()
            self.seconds += time.perf_counter() - started
            return result

        return run

    @contextmanager
    def on_steps(self) -> Iterator[None]:
        """Run inside: backward and Adam of all steps are timed too."""
        with (
            mock.patch("torch.autograd.grad", self.timed(torch.autograd.grad)),
            mock.patch("stages.engine.adam.adam", self.timed(adam)),
        ):
            self.running = True
            yield
            self.running = False


def _flops_of_a_step(inverter: Inverter, begin: Callable[[], Item], width: int) -> int:
    items = [replace(begin(), schedule=Schedule(steps=1))] * width
    with FlopCounterMode(display=False) as counter:
        invert_all(inverter.loss(), items, width)
    return int(counter.get_total_flops())


def _matmul_flops(device: torch.device, precision: Computed, wait: Callable[[], None]) -> float:
    """Return the FLOP/s of the fastest of several matrix products, each the best of three."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    best = 0.0
    for side in MATMULS:
        a, b = torch.randn(2, side, side, device=device, dtype=dtype)
        seconds = min(_seconds(partial(torch.mm, a, b), wait) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
    return best


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
