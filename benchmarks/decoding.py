"""The cost of decoding a picture.

    python -m benchmarks.decoding [--quick] --json FILE [--device cpu]

Two sides decode the same pictures, made from a seed, in turn in one process: the decoder of the stages, and Pillow
alone as the stages called it before (open, convert to RGB, array). JPEGs are also decoded by torchvision, which knows
neither orientation nor profiles. Times are of the processor, so that a machine with other work gives the same ones.

`batches`: a batch of JPEGs, by Pillow on one thread and by torchvision on the device, which is NVJPEG on a GPU; ms that
pass per picture, the way back to the CPU included, and how far the pixels are from Pillow's.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.timing import seconds_of
from stages.images.decoding import decode_picture

SEED = 0
SIDES_PX = (256, 512)
ROUNDS = 60
QUICK_ROUNDS = 20
BATCH = 32
IN_A_ROUND = 8
"""Decodings by one side before the other takes its turn."""

MAX_RATIO = 1.05
"""Limit of the stages' decoder relative to Pillow alone, medians; the machine's noise is about as large."""

UPRIGHT = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG with EXIF": ("JPEG", {"quality": 90, "exif": UPRIGHT}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 90}),
}

Pixels = NDArray[np.uint8]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if the stages' decoder takes longer than Pillow alone."""
    options = parser_of("decoding", __doc__, f"{QUICK_ROUNDS} rounds, not {ROUNDS}").parse_args(arguments)
    report = report_of(QUICK_ROUNDS if options.quick else ROUNDS, torch.device(options.device))
    write_report(options.json, report)
    return 0 if report["met"] else 1


def report_of(rounds: int, device: torch.device) -> dict[str, Any]:
    """Return the figures of every format and size, and of batches on a device."""
    rows = [_row(form, side_px, rounds) for form in FORMS for side_px in SIDES_PX]
    return {
        "benchmark": "decoding",
        "units": {
            "pillow_ms": "ms of one thread, median",
            "ours_ms": "the same",
            "ratio": "ours / Pillow, median of rounds",
            "device_ms": "ms that pass per picture of a batch, median of rounds",
            "mean_difference": "of 255, mean over pixels and colours",
        },
        "targets": {"ratio": MAX_RATIO},
        "met": all(row["ratio"] <= MAX_RATIO for row in rows),
        "results": rows,
        "batches": [_batch_row(side_px, max(1, rounds // 4), device) for side_px in SIDES_PX],
        "rounds": rounds,
        "seed": SEED,
        **circumstances(device),
    }


def picture(form: str, side_px: int) -> bytes:
    """Return a picture with smooth colours and some grain, as a file."""
    random = np.random.default_rng(SEED)
    coarse = Image.fromarray(random.integers(0, 256, (side_px // 8, side_px // 8, 3), np.uint8))
    smooth_HW3 = np.asarray(coarse.resize((side_px, side_px), Image.Resampling.BICUBIC)).astype(int)
    grainy_HW3 = (smooth_HW3 + random.integers(-6, 7, smooth_HW3.shape)).clip(0, 255).astype(np.uint8)
    name, settings = FORMS[form]
    sink = io.BytesIO()
    Image.fromarray(grainy_HW3).save(sink, name, **settings)
    return sink.getvalue()


def pillow_alone(data: bytes) -> Pixels:
    """Return a picture as the stages used to decode it."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def ours(data: bytes) -> Pixels:
    """Return a picture as the stages decode it."""
    return decode_picture(data, "picture").pixels_HW3


def torchvision_alone(data: bytes) -> Pixels:
    """Return a JPEG as torchvision decodes it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels_HW3: Pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()
    return pixels_HW3


def _row(form: str, side_px: int, rounds: int) -> dict[str, Any]:
    data = picture(form, side_px)
    sides = {"pillow": pillow_alone, "ours": ours} | ({"torchvision": torchvision_alone} if form == "JPEG" else {})
    pixels = {name: decode(data) for name, decode in sides.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, decode in sides.items():
            times_ms[name].append(_milliseconds(decode, data))
    ratios = [own / alone for own, alone in zip(times_ms["ours"], times_ms["pillow"], strict=True)]
    row: dict[str, Any] = {"form": form, "side_px": side_px, "file_bytes": len(data)}
    row |= {f"{name}_ms": round(statistics.median(taken), 4) for name, taken in times_ms.items()}
    row["ratio"] = round(statistics.median(ratios), 3)
    row |= {f"{name}_differs": int((own != pixels["pillow"]).sum()) for name, own in pixels.items() if name != "pillow"}
    shown = "  ".join(f"{name} {row[f'{name}_ms']:.3f} ms" for name in sides)
    print(f"{form:16} {side_px:4} px  {shown}  ratio {row['ratio']}", flush=True)
    return row


def on_device(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return JPEGs as torchvision decodes them on a device, by NVJPEG on a GPU."""
    from torchvision.io import ImageReadMode, decode_jpeg

    decoded: list[Tensor] = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)
    return decoded


def _batch_row(side_px: int, rounds: int, device: torch.device) -> dict[str, Any]:
    data = picture("JPEG", side_px)
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8)] * BATCH
    first = on_device(files, device)[0]  # the first call is slower
    difference = np.abs(first.permute(1, 2, 0).cpu().numpy().astype(int) - pillow_alone(data).astype(int))
    times_ms: dict[str, list[float]] = {"pillow_ms": [], "device_ms": []}
    for _ in range(rounds):
        for name, run in {
            "pillow_ms": lambda: [pillow_alone(data) for _ in files],
            "device_ms": lambda: [pixels_3HW.cpu() for pixels_3HW in on_device(files, device)],
        }.items():
            times_ms[name].append(1000 * seconds_of(run, device) / BATCH)
    row: dict[str, Any] = {"side_px": side_px, "batch": BATCH}
    row |= {name: round(statistics.median(taken), 4) for name, taken in times_ms.items()}
    row |= {"mean_difference": round(float(difference.mean()), 4), "largest_difference": int(difference.max())}
    print("batch of JPEGs, " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def _milliseconds(decode: Callable[[bytes], Pixels], data: bytes) -> float:
    start = time.thread_time()
    for _ in range(IN_A_ROUND):
        decode(data)
    return (time.thread_time() - start) * 1000 / IN_A_ROUND


if __name__ == "__main__":
    sys.exit(main())
