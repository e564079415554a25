"""Images per second of the segmenters and encoders, the networks alone.

    python -m benchmarks.throughput [--quick] --json FILE [--device cpu]

Random weights, which cost as much as trained ones, and random images that are on the device already, in batches. The
segmenters predict maps of five spaces at 256 px: the light one, DeepLabv3 with ResNet-101 as in the thesis, and
DeepLabv3+ as published. `training` adds a loss and the backward pass, with the kernels of a training. The encoder is
that of e4e at its full width, for the 14 codes of a generator of 256 px. `supervision` and `encoder` measure the stages
around such networks: decoding, records and commits.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.timing import seconds_of
from generators.encoders.networks import EncoderNetwork, NetworkConfig
from generators.encoders.published import TYPES
from stages.base.device import choose_kernels
from stages.segmenter.network import Backbone, Segmenter, SegmenterNetwork, new_segmenter

SEED = 0
SPACES = ("W+", "F4", "F6", "F8", "F10")
BACKBONES: tuple[Backbone, ...] = ("light", "deeplabv3_resnet101", "deeplabv3_plus_resnet101")
ENCODER = "Encoder4Editing"
SIDE_PX, QUICK_SIDE_PX = 256, 64
ENCODER_PX = 256
BATCH, QUICK_BATCH = 16, 2
TIMES, QUICK_TIMES = 20, 2
WIDTHS, QUICK_WIDTHS = (64, 512), (8, 32)
"""Channels of the encoder's first layer, and numbers of a code."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures."""
    options = parser_of("throughput", __doc__, "the light segmenter and a narrow encoder").parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    write_report(options.json, report_of(torch.device(options.device), quick=options.quick))
    return 0


def report_of(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Return the figures of every network."""
    side_px, batch = (QUICK_SIDE_PX, QUICK_BATCH) if quick else (SIDE_PX, BATCH)
    rows = []
    for name, task, run in _tasks(batch, side_px, device, quick=quick):
        choose_kernels("tf32" if task == "training" else "fp32")  # as workers do
        run()  # the first pass is slower
        run()
        seconds = statistics.median(seconds_of(run, device) for _ in range(QUICK_TIMES if quick else TIMES))
        rows.append({"network": name, "task": task, "images_per_second": round(batch / seconds, 2)})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return {
        "benchmark": "throughput",
        "results": rows,
        "batch": batch,
        "side_px": side_px,
        "units": {"images_per_second": "images per second of one batch, median"},
        "quick": quick,
        "seed": SEED,
        **circumstances(device),
    }


def _tasks(
    batch: int, side_px: int, device: torch.device, *, quick: bool
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield networks one after the other, so that only one is in memory: name, task, and a pass of a batch."""
    images_N3HW = torch.rand(batch, 3, side_px, side_px, device=device).contiguous(memory_format=torch.channels_last)
    for backbone in BACKBONES[:1] if quick else BACKBONES:
        segmenter = new_segmenter(SegmenterNetwork(backbone=backbone), SPACES, SEED)
        segmenter.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield backbone, "prediction", _prediction(segmenter.eval(), images_N3HW)
        yield backbone, "training", _training(segmenter.train(), images_N3HW)
    torch.manual_seed(SEED)
    width, w_dim = QUICK_WIDTHS if quick else WIDTHS
    shape = NetworkConfig(**TYPES[ENCODER][1], num_ws=14, w_dim=w_dim, width=width)
    images_N3HW = torch.rand(batch, 3, ENCODER_PX, ENCODER_PX, device=device)
    yield ENCODER, "encoding", _prediction(EncoderNetwork(shape).to(device).eval(), images_N3HW)


def _prediction(network: nn.Module, images_N3HW: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> object:
        return network(images_N3HW)

    return run


def _training(segmenter: Segmenter, images_N3HW: Tensor) -> Callable[[], object]:
    def run() -> None:
        segmenter.zero_grad(set_to_none=True)
        segmenter.unbounded(images_N3HW).square().mean().backward()

    return run


if __name__ == "__main__":
    sys.exit(main())
