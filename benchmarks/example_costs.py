"""GPU-hours of the configurations in `examples/`: counted FLOPs times counts of images and steps, over a rate.

    python -m benchmarks.example_costs --json FILE [--tflops 6]

An estimate, not a measurement: FLOPs are counted on networks without weights, and the rate is that of one published
figure, 67 s per face of 1024 px for the 1,001 steps of the authors' code (hardware not stated), unless `--tflops` gives
another. A step is one image's forward and backward pass through generator and LPIPS-VGG. `--quick` changes nothing.
`invertmill plan` prints hours measured on your own machine as soon as one unit of a stage is committed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.command import circumstances, parser_of, write_report
from generators.families.biggan_deep import BigGANDeep, BigGANDeepConfig
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from pipeline.config import RunConfig, load_config
from stages.maps.reduction import reduced_size
from stages.maps.region import Region
from stages.maps.spaces import chosen_spaces
from stages.perceptual.backbones import PUBLISHED, PublishedBackbone
from stages.segmenter.network import Segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"
HELD_OUT = 1_000
TRAINED_ON = {"cars": 8_144}
"""Images to learn from, where they are not 10,000: Stanford cars has no more."""
RESOLUTIONS = {"car": 512, "horse": 256, "cat": 256, "ffhq": 1024}
FACE_S, FACE_STEPS, FACE_PX = 67.0, 1_001, 1_024
"""The published figure: seconds of one face, its steps, and the side of its canvas."""
BIGGAN_256 = BigGANDeepConfig(
    output_dim=256,
    layers=(
        *((False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 8)),
        *((False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1)),
    ),
)


@dataclass(frozen=True)
class Cost:
    """What one example costs; hours of one GPU at the stated rate."""

    example: str
    images: int
    spaces: int
    gflop_a_step: float
    error_maps_h: float
    train_segmenter_h: float
    invert_all_h: float
    invert_held_out_h: float


def main(arguments: list[str] | None = None) -> int:
    """Print the table as Markdown, and write its figures."""
    parser = parser_of("example_costs", __doc__, "no difference: nothing is measured")
    parser.add_argument("--tflops", type=float, help="rate in 10^12 FLOP/s instead of the published one")
    options = parser.parse_args(arguments)
    flop_s = _published_rate() if options.tflops is None else 1e12 * options.tflops
    costs = [_cost(path.stem, load_config(path), flop_s) for path in sorted(EXAMPLES.glob("*.yaml"))]
    for line in _table(costs):
        print(line)
    report: dict[str, Any] = {
        "benchmark": "example_costs",
        "tflop_s": flop_s / 1e12,
        "examples": [asdict(cost) for cost in costs],
        "units": {"h": "hours of one GPU at tflop_s", "gflop_a_step": "10^9 FLOP, one image, forward and backward"},
    }
    write_report(options.json, report | circumstances(torch.device("cpu")))
    return 0


def _published_rate() -> float:
    with torch.device("meta"):
        step = _step_flops(StyleGAN2(_config_f(FACE_PX)), Region.whole(FACE_PX), 256)
    return step * FACE_STEPS / FACE_S


def _cost(name: str, config: RunConfig, flop_s: float) -> Cost:
    with torch.device("meta"):
        generator = _generator(config)
        region = config.region or Region.whole(generator.resolution)
        spaces = chosen_spaces(config.spaces, generator.spaces)
        step = _step_flops(generator, region, config.invert.objective.side_px)
        network = config.train_segmenter.network
        epoch_image = _flops(Segmenter(network, spaces), torch.empty(2, 3, *reduced_size(region.size, 256))) / 2
    trained_on = TRAINED_ON.get(name, 10_000)
    images = trained_on + HELD_OUT

    def hours(flops: float) -> float:
        return round(flops / flop_s / 3600, 1)

    return Cost(
        example=name,
        images=images,
        spaces=len(spaces),
        gflop_a_step=round(step / 1e9, 1),
        error_maps_h=hours(images * len(spaces) * config.error_maps.schedule.steps * step),
        train_segmenter_h=hours(3 / 2 * trained_on * config.train_segmenter.epochs * epoch_image),
        invert_all_h=hours(images * config.invert.schedule.steps * step),
        invert_held_out_h=hours(HELD_OUT * config.invert.schedule.steps * step),
    )


def _generator(config: RunConfig) -> Generator:
    name = config.generator.name
    if name.startswith("biggan"):
        return BigGANDeep(BIGGAN_256)
    return StyleGAN2(_config_f(RESOLUTIONS[name.split("-")[1]]))


def _config_f(resolution: int) -> StyleGAN2Config:
    return StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=resolution)


def _step_flops(generator: Generator, region: Region, side_px: int) -> float:
    """Return the FLOPs of one image's forward and backward pass, down to its codes."""
    codes_1RD = torch.empty(1, generator.num_ws, generator.w_dim)
    backbone = PublishedBackbone(PUBLISHED["vgg"])
    generator.requires_grad_(False)
    picture = _flops(generator.synthesize, codes_1RD)
    return picture + _flops(backbone, torch.empty(1, 3, *reduced_size(region.size, side_px)))


def _flops(network: Any, x: Tensor) -> float:  # noqa: ANN401  # anything that maps a tensor to tensors
    """Return the FLOPs of a pass forward and back to the input; gradients of weights are not counted."""
    if isinstance(network, torch.nn.Module):
        network.requires_grad_(False)
    leaf = x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        found = network(leaf * 1)
        torch.autograd.backward([part.sum() for part in (found if isinstance(found, list) else [found])])
    return float(counter.get_total_flops())


def _table(costs: list[Cost]) -> Iterator[str]:
    yield "| example | images | spaces | error maps | segmenter | inversion of all | of the 1,000 alone |"
    yield "|---|---|---|---|---|---|---|"
    for cost in costs:
        hours = (cost.error_maps_h, cost.train_segmenter_h, cost.invert_all_h, cost.invert_held_out_h)
        shown = " | ".join(f"{value:,.0f} h" if value >= 10 else f"{value:.1f} h" for value in hours)
        yield f"| `{cost.example}.yaml` | {cost.images:,} | {cost.spaces} | {shown} |"


if __name__ == "__main__":
    sys.exit(main())
