"""Time to equal quality: other optimisers, rates and losses against today's, from the starts that a run can have.

    python -m benchmarks.time_to_quality [--quick] --json FILE [--plot FILE] [--photographs FOLDER] [--device cpu]

The demo's held-out scenes, assigned as in `benchmarks.methods`, are inverted in one batch by each way of descending
(`VARIANTS`), in fp32, in several numbers of evaluations of the loss with its gradient.
Every final loss (Eq. 3.8) is computed at full size in float32. `seconds_per_image` are those of the processor (of the
clock on a GPU), without what each image takes before (`starts`: decoding, its target, its start).

`more_loss`: relative difference of the mean loss from that of the reference, today's steps from the same start with as
many evaluations; `more_psnr_db`: that of the mean PSNR; each with the standard error of the paired difference.
`speed_up`: for each quality in `qualities`, how many times as fast as `seconds_per_image` there the way reaches its
loss, interpolated between numbers of evaluations; null if it does not within those tried. `thesis` (not `--quick`): the
published schedule from the mean w on a few scenes, and how many times as fast its loss is reached on them.

`photographs`: the same for those ways that pay, in the demo's generator with stripes of all spaces. `config_f` (not
`--quick`): the same at 256 px with random weights and LPIPS-VGG, in the precision that `auto` chooses.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.harness.as_worker import as_worker
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.descents import Descent, Stepwise, Work, gauss_newton_on_w, lbfgs_on_w
from benchmarks.harness.packed_cases import photographs
from benchmarks.inversion import Case, config_f, inverter_of, stripes
from benchmarks.methods import DRAWS, assigned, held_out, stage_of
from benchmarks.supervision import ASSETS, SEED, scenes
from stages.base.stage import Sample
from stages.engine.schedule import Schedule
from stages.images.image_member import pixels_of
from stages.inversion.inverter import Inverter
from stages.objective.precision import computed_in

TODAY = "today"
"""The engine's Adam: betas (0.9, 0.999), a ramp up over 5 % of the steps and one down over 25 %, rate 0.1."""
SHORT = Schedule(learning_rate=0.07, ramp_up=0, ramp_down=0.5, betas=(0.7, 0.9))
"""A shorter memory, and no ramp up."""
VARIANTS: Mapping[str, Descent] = {
    TODAY: Stepwise(),
    "no ramp up": Stepwise(schedule=Schedule(learning_rate=0.1, ramp_up=0)),
    "rate 0.05, long ramp down": Stepwise(schedule=Schedule(learning_rate=0.05, ramp_up=0, ramp_down=0.5)),
    "betas 0.9, 0.99": Stepwise(schedule=Schedule(learning_rate=0.1, betas=(0.9, 0.99))),
    "betas 0.8, 0.99": Stepwise(schedule=Schedule(learning_rate=0.1, betas=(0.8, 0.99))),
    "betas 0.7, 0.9": Stepwise(schedule=Schedule(learning_rate=0.1, betas=(0.7, 0.9))),
    "short memory": Stepwise(schedule=SHORT),
    "NAdam": Stepwise(torch.optim.NAdam),
    "RAdam": Stepwise(torch.optim.RAdam),
    "AMSGrad": Stepwise(functools.partial(torch.optim.Adam, amsgrad=True)),
    "w at half the rate": Stepwise(w_rate=0.5),
    "deltas at half the rate": Stepwise(delta_rate=0.5),
    "deltas at twice the rate": Stepwise(delta_rate=2),
    "w alone first": Stepwise(w_alone=0.3),
    "half size first": Stepwise(coarse_px=32),
    "LPIPS in every 2nd step": Stepwise(lpips_every=2),
    "LPIPS in every 2nd step, twice the weight": Stepwise(lpips_every=2, lpips_scaled=True),
    "L-BFGS on w at the end": Stepwise(finish=lbfgs_on_w),
    "Gauss-Newton on w at the end": Stepwise(finish=gauss_newton_on_w),
    "short memory, half size first": Stepwise(schedule=SHORT, coarse_px=32),
    "short memory, LPIPS in every 2nd step": Stepwise(schedule=SHORT, lpips_every=2),
}
FROM_ENCODER = ("rate 0.05, long ramp down", "short memory, half size first")
PAYING = (TODAY, "betas 0.7, 0.9", "short memory")
"""The ways that are tried in more numbers of evaluations, with `--quick`, on photographs and at config-f."""
STARTS: dict[str, Mapping[str, Any]] = {
    "learnt": DRAWS,
    "encoder": {"kind": "encoder", "encoder": {"kind": "sam", "checkpoint": ASSETS / "encoder.safetensors"}},
}
EVALUATIONS = (12, 25)
MORE = (6, 12, 25, 50, 100)
QUICK = (6, 12, 25)
LARGE = (4, 8)
"""Evaluations: of all ways, of those that pay, of these with `--quick` and at config-f."""
FEW = 4
"""Scenes of the thesis's schedule."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures and draw the curves."""
    parser = parser_of("time_to_quality", __doc__, "few scenes, ways and evaluations; within 4 minutes on 2 cores")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture (.png) of loss against seconds")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="tars of photographs to invert too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    device, started, processor = torch.device(options.device), time.perf_counter(), time.process_time()
    report = {
        "benchmark": "time_to_quality",
        **_demo(device, quick=options.quick),
        **(_photographs(options.photographs, device, quick=options.quick) if options.photographs else {}),
        **({} if options.quick else _config_f(device)),
        "precision": {"demo and photographs": "fp32", "config_f": computed_in("auto", device)},
        "units": {
            "loss": "Eq. 3.8, mean over images",
            "psnr_db": "dB, mean over images",
            "seconds_per_image": "seconds of the processor; of the clock on a GPU",
            "more_loss": "share of the reference's mean loss, and its standard error",
            "more_psnr_db": "dB, and its standard error",
            "speed_up": "seconds of the quality over those of the way",
        },
        "quick": options.quick,
        "seed": SEED,
        **circumstances(device),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
    }
    write_report(options.json, report)
    if options.plot is not None:
        draw(report, options.plot)
    return 0


# ---- images


def _demo(device: torch.device, *, quick: bool) -> dict[str, Any]:
    samples = assigned(held_out(6 if quick else 12), device)
    curves, starts = dict[str, dict[str, Curve]](), dict[str, float]()
    for start, settings in STARTS.items():
        work, starts[start] = work_of_samples(settings, samples, device)
        curves[start] = _curves(start, work, PAYING, QUICK if quick else MORE)
        others = () if quick else VARIANTS if start == "learnt" else FROM_ENCODER
        curves[start] |= _curves(start, work, [name for name in others if name not in PAYING], EVALUATIONS)
    qualities = {
        f"{start}, {TODAY}, {evaluations}": reached
        for start, of_start in curves.items()
        for evaluations, reached in of_start[TODAY].items()
        if evaluations > QUICK[0]
    }
    shown = {start: _shown(of_start, qualities) for start, of_start in curves.items()}
    thesis = {} if quick else {"thesis": _thesis(samples[:FEW], curves, device)}
    figures = {name: {"loss": _mean(one.loss_N), "seconds_per_image": one.seconds} for name, one in qualities.items()}
    return {"scenes": len(samples), "starts": starts, "qualities": figures, "demo": shown, **thesis}


def work_of_samples(start: Mapping[str, Any], samples: Sequence[Sample], device: torch.device) -> tuple[Work, float]:
    """Return the inversions of samples with assignments, and the seconds that decoding, target and start take."""
    inverter = (stage := stage_of(start=dict(start))).inverter(device)
    started, items = time.process_time(), []
    for sample in samples:
        assignment_HW = sample.records["refine_maps"].arrays["assignment_HW"].astype(np.uint8)
        photograph = stage.photograph(sample, pixels_of(sample), inverter)
        items.append(inverter.item(photograph, inverter.masks(assignment_HW[None]), assignment_HW=assignment_HW))
    return Work(inverter, items), round((time.process_time() - started) / len(samples), 4)


def _thesis(
    samples: Sequence[Sample], curves: Mapping[str, Mapping[str, Curve]], device: torch.device
) -> dict[str, Any]:
    """Return what the published schedule reaches on a few scenes, and how much sooner others reach it there."""
    work, _ = work_of_samples({"kind": "mean"}, samples, device)
    schedule = Schedule()
    reached = _reached(work, Stepwise(schedule=schedule), schedule.steps)
    on_few = {
        f"{start}, {name}": {n: one.first(len(samples)) for n, one in curve.items()}
        for start, of_start in curves.items()
        for name, curve in of_start.items()
        if name in PAYING
    }
    sooner = {name: speed_up(curve, reached) for name, curve in on_few.items()}
    return {"scenes": len(samples), "evaluations": schedule.steps, **reached.figures(), "speed_up": sooner}


def _photographs(folder: Path, device: torch.device, *, quick: bool) -> dict[str, Any]:
    samples = photographs(folder, 6 if quick else 12)
    stage = stage_of(start=DRAWS)
    inverter = stage.inverter(device)
    assignment_HW = stripes(inverter)
    masks = inverter.masks(assignment_HW[None])
    items = [inverter.item(stage.photograph(one, pixels_of(one), inverter), masks) for one in samples]
    curves = _curves("photographs", Work(inverter, items), PAYING, QUICK if quick else MORE[:-1])
    return {"photographs": {"images": len(items), **_shown(curves, _qualities(curves))}}


def _config_f(device: torch.device) -> dict[str, Any]:
    """Return the figures of two images at 256 px, whose steps take seconds."""
    case = Case("config-f 256", lambda: config_f(256), 2, 1, precision=computed_in("auto", device))
    inverter = inverter_of(case, device)
    masks = inverter.masks(stripes(inverter)[None])
    items = [_item(inverter, pixels_of(scene), masks) for scene in scenes(case.images)]
    curves = _curves("config-f", Work(inverter, items), PAYING, LARGE)
    return {"config_f": {"images": len(items), **_shown(curves, _qualities(curves))}}


def _item(inverter: Inverter, pixels_HW3: NDArray[np.uint8], masks: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
    return inverter.item(inverter.fitted(pixels_HW3, inverter.objective.side_px), masks)


# ---- figures


@dataclass(frozen=True, eq=False)
class Reached:
    """The final loss and PSNR of every image, and seconds per image."""

    loss_N: NDArray[np.float64]
    psnr_db_N: NDArray[np.float64]
    seconds: float

    def first(self, count: int) -> Reached:
        """Return those of the first images."""
        return replace(self, loss_N=self.loss_N[:count], psnr_db_N=self.psnr_db_N[:count])

    def figures(self, reference: Reached | None = None) -> dict[str, Any]:
        """Return means, and differences from a reference with their standard errors."""
        means = {"loss": _mean(self.loss_N), "psnr_db": _mean(self.psnr_db_N), "seconds_per_image": self.seconds}
        if reference is None:
            return means
        relative_N = (self.loss_N - reference.loss_N) / reference.loss_N.mean()
        differences = {"more_loss": relative_N, "more_psnr_db": self.psnr_db_N - reference.psnr_db_N}
        return means | {name: [_mean(one), _standard_error(one)] for name, one in differences.items()}


Curve = dict[int, Reached]
"""What a way reaches, by the number of evaluations."""


def _curves(
    title: str, work: Work, names: Sequence[str] | Mapping[str, Descent], evaluations: Sequence[int]
) -> dict[str, Curve]:
    work.descended(VARIANTS[TODAY], 2)  # the first steps are slower
    curves = dict[str, Curve]()
    for name in names:
        curves[name] = {count: _reached(work, VARIANTS[name], count) for count in evaluations}
        losses = ", ".join(f"{n}: {_mean(one.loss_N):.4f} in {one.seconds:.3f} s" for n, one in curves[name].items())
        print(f"{title}, {name}: {losses}", flush=True)
    return curves


def _reached(work: Work, descent: Descent, evaluations: int) -> Reached:
    batch, seconds = work.descended(descent, evaluations)
    loss_N, psnr_db_N = work.judged(batch)
    return Reached(loss_N.double().numpy(), psnr_db_N.double().numpy(), round(seconds, 4))


def _qualities(curves: Mapping[str, Curve]) -> dict[str, Reached]:
    return {f"{TODAY}, {evaluations}": one for evaluations, one in curves[TODAY].items()}


def _shown(curves: Mapping[str, Curve], qualities: Mapping[str, Reached]) -> dict[str, Any]:
    """Return the figures of every way: by number of evaluations, and its speed-up to each quality."""
    return {
        name: {
            "reached": {str(n): one.figures(curves[TODAY].get(n)) for n, one in curve.items()},
            "speed_up": {quality: speed_up(curve, reached) for quality, reached in qualities.items()},
        }
        for name, curve in curves.items()
    }


def speed_up(curve: Curve, quality: Reached) -> float | None:
    """Return how many times as fast a curve reaches a quality's loss, None if it does not.

    Between two points, the logarithm of the seconds is linear in that of the loss. Above the first point it is that
    point's.
    """
    wanted = math.log(float(quality.loss_N.mean()))
    points = sorted((one.seconds, math.log(float(one.loss_N.mean()))) for one in curve.values())
    before: tuple[float, float] | None = None
    for seconds, loss in points:
        if loss <= wanted:
            share = 1.0 if before is None else (before[1] - wanted) / (before[1] - loss)
            from_s = seconds if before is None else before[0]
            return round(quality.seconds / (from_s * math.pow(seconds / from_s, share)), 2)
        before = seconds, loss
    return None


def _mean(values_N: NDArray[np.float64]) -> float:
    return round(float(values_N.mean()), 5)


def _standard_error(values_N: NDArray[np.float64]) -> float:
    return round(float(values_N.std(ddof=1) / len(values_N) ** 0.5), 5)


# ---- picture

SHOWN = {TODAY: "#9a9a9a", "betas 0.7, 0.9": "#4c78a8", "short memory": "#d1603d"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw mean loss against seconds per image, one line per start and way."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        for start, style in (("learnt", "-"), ("encoder", "--")):
            for name, colour in SHOWN.items():
                points = sorted(
                    (p["seconds_per_image"], p["loss"]) for p in report["demo"][start][name]["reached"].values()
                )
                axes.plot(
                    *zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=f"{start}: {name}"
                )
        axes.set(xscale="log", yscale="log", xlabel="seconds per image", ylabel="loss")
        axes.grid(which="both", alpha=0.2)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    as_worker()
    sys.exit(main())
