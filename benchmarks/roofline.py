"""How fast a device multiplies, convolves and moves memory: the bounds of the engine's speed.

    python -m benchmarks.roofline [--quick] --json FILE [--device cpu]

`products`: TFLOP/s of square matrix products, by precision and side. `convolutions`: TFLOP/s of a 3×3 convolution with
its gradient in the input, as an inversion needs it, by precision, layout and shape (those of config-f 256 px and of
VGG); `share` is relative to the fastest product of the same precision. `copy_gb_per_s`: bytes read and written by
copying a large tensor. `tf32` is float32 with products of 10 bits; a CPU has none. Every figure is the best of several.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.timing import seconds_of
from stages.base.device import choose_kernels

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}

SIDES, QUICK_SIDES = (1024, 4096, 8192), (256,)
SHAPES = ((16, 512, 32), (16, 512, 64), (16, 256, 128), (16, 128, 256), (16, 64, 256))
"""Images, channels and side of convolutions."""
QUICK_SHAPES = ((2, 64, 32),)
COPIED_MB, QUICK_COPIED_MB = 1024, 64
TIMES, QUICK_TIMES = 10, 3


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures."""
    options = parser_of("roofline", __doc__, "one small product and convolution each").parse_args(arguments)
    torch.set_num_threads(1)  # as a worker of one core has it
    write_report(options.json, report_of(torch.device(options.device), quick=options.quick))
    return 0


def report_of(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Return the figures of every precision that the device has."""
    times = QUICK_TIMES if quick else TIMES
    products, convolutions = list[dict[str, Any]](), list[dict[str, Any]]()
    for precision in DTYPES if device.type == "cuda" else ("fp32", "bf16"):
        choose_kernels(precision)
        own = list(_products(precision, QUICK_SIDES if quick else SIDES, times, device))
        best = max(row["tflops"] for row in own)
        products += own
        convolutions += _convolutions(precision, QUICK_SHAPES if quick else SHAPES, best, times, device)
    return {
        "benchmark": "roofline",
        "products": products,
        "convolutions": convolutions,
        "copy_gb_per_s": _copy_gb_per_s(QUICK_COPIED_MB if quick else COPIED_MB, times, device),
        "units": {
            "tflops": "10¹² floating-point operations per second",
            "share": "TFLOP/s over those of the fastest product of the same precision",
            "copy_gb_per_s": "10⁹ bytes per second, read and written",
        },
        "quick": quick,
        **circumstances(device),
    }


def _products(precision: str, sides: tuple[int, ...], times: int, device: torch.device) -> Iterator[dict[str, Any]]:
    for side in sides:
        a, b = torch.randn(2, side, side, device=device).to(DTYPES[precision])
        seconds = _best(partial(torch.mm, a, b), times, device)
        yield _printed({"precision": precision, "side": side, "tflops": _tflops(2 * side**3, seconds)})


def _convolutions(
    precision: str, shapes: tuple[tuple[int, int, int], ...], best: float, times: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    def random(shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPES[precision]).to(memory_format=layout)

    for images, channels, side in shapes:
        for layout, memory_format in LAYOUTS.items():
            x = random((images, channels, side, side), memory_format).requires_grad_()
            weight = random((channels, channels, 3, 3), memory_format)
            seconds = _best(partial(_convolved, x, weight), times, device)
            tflops = _tflops(2 * 2 * 9 * images * (channels * side) ** 2, seconds)
            row = {"precision": precision, "layout": layout, "images": images, "channels": channels, "side_px": side}
            yield _printed(row | {"tflops": tflops, "share": round(tflops / best, 3)})


def _convolved(x: Tensor, weight: Tensor) -> None:
    """Convolve, and compute the gradient in the input."""
    y = F.conv2d(x, weight, padding=1)
    torch.autograd.grad(y, x, y.detach())


def _copy_gb_per_s(size_mb: int, times: int, device: torch.device) -> float:
    source = torch.zeros(size_mb << 18, device=device)
    target = torch.empty_like(source)
    return round(2 * source.nbytes / _best(partial(target.copy_, source), times, device) / 1e9, 1)


def _best(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the seconds of the fastest of several calls, after two that do not count."""
    for _ in range(2):
        seconds_of(run, device)
    return min(seconds_of(run, device) for _ in range(times))


def _tflops(flops: int, seconds: float) -> float:
    return round(flops / seconds / 1e12, 4)


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
