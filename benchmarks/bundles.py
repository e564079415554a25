"""The size and speed of stored codes: bytes per image, loss, packing, random access, and reading next to synthesis.

    python -m benchmarks.bundles [--quick] [--photographs FOLDER] --json FILE

Two cases. The demo's scenes are inverted in the demo's generator, so their deltas are real. A config-f generator of 512
px has random weights, and deltas drawn from a Laplace distribution with a scale per channel, with 45 % of the pixels in
W+, 25 % in F4, 15 % in F6, 10 % in F8 and 5 % in F10; its photographs are its pictures with noise, at 23 dB. With
`--photographs`, 200 photographs of a folder's tars (20 with `--quick`) are inverted in the demo's generator too, and
each must lose as little. Sizes are compared with `numpy.savez_compressed` and `torch.save` of the dense float32 codes.
Times on a CPU are of the processor, so that a machine with other work gives the same ones; random access is by the
clock, in an index of a million images.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.bundle_store import enlarge, record_of, write_store
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.packed_cases import (
    Case,
    demo_case,
    inverted_photographs,
    large_case,
    photographs,
)
from generators.latents import Codes
from infra.bundles import write_npz
from infra.receipts import Ledger
from pipeline.bundles.reader import open_bundles
from stages.base.stage import Record
from stages.inversion.packing import AnyArrays, pack_codes
from stages.inversion.rounding import Packed, Packing, pack_within

SEED = 0
DEMO_IMAGES, LARGE_IMAGES, LOOKUPS, ROUNDS = 12, 3, 200, 3
PHOTOGRAPHS, QUICK_PHOTOGRAPHS, PHOTOGRAPH_STEPS = 200, 20, 20
INDEXED = 1_000_000
TARGETS = {"median_bytes": 350_000, "pack_mb_s": 200.0, "random_access_ms": 50.0, "reader_share": 0.9}
MAX_LOSS_DB, MAX_LPIPS_LOSS = 0.05, 0.001


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if a limit of the loss is exceeded or a target missed."""
    parser = parser_of("bundles", __doc__, "the demo's generator alone, and fewer photographs")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="tars of photographs to invert and store")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    cases = [demo_case(DEMO_IMAGES, device)] + ([] if options.quick else [large_case(LARGE_IMAGES, device)])
    rows = [measured(case, INDEXED if case is cases[-1] else None, device) for case in cases]
    if options.photographs is not None:
        rows.append(of_photographs(options.photographs, QUICK_PHOTOGRAPHS if options.quick else PHOTOGRAPHS, device))
    report = report_of(rows, None if options.quick else rows[len(cases) - 1], device)
    write_report(options.json, report)
    return 0 if report["met"] else 1


def report_of(
    rows: Sequence[Mapping[str, Any]], large: Mapping[str, Any] | None, device: torch.device
) -> dict[str, Any]:
    """Return the report on all cases, of which `large` has to meet the targets of size and speed."""
    worst_db, worst_lpips = (max(row[name] for row in rows) for name in ("psnr_loss_db", "lpips_loss"))
    met = worst_db <= MAX_LOSS_DB and worst_lpips <= MAX_LPIPS_LOSS
    if large is not None:
        met &= large["median_bytes"] <= TARGETS["median_bytes"] and large["pack_mb_s"] >= TARGETS["pack_mb_s"]
        met &= large["random_access_ms"] <= TARGETS["random_access_ms"]
        met &= large["reader_share_of_bare_synthesis"] >= TARGETS["reader_share"]
    return {
        "benchmark": "bundles",
        "units": {
            "median_bytes": "bytes of an image's codes in its npz",
            "psnr_loss_db": "dB lost by storing the codes, worst image",
            "lpips_loss": "increase of the perceptual distance, worst image; demo network, not LPIPS-VGG",
            "pack_mb_s": "MB of dense float32 codes per second of one core: rounding at known steps, npz",
            "search_s": "s (of all threads on a CPU) to find the steps of an image",
            "random_access_ms": "ms from a key to unpacked codes, median, in an index of `indexed` images",
            "open_s": "s to open that index; written_s: to write it; first_s: to its first image",
            "ratio_savez": "bytes / those of numpy.savez_compressed of dense float32 codes",
            "ratio_torch_save": "bytes / those of torch.save of dense float32 codes",
            "reader_share_of_bare_synthesis": "time of synthesis / time of reading, unpacking and synthesis",
        },
        "targets": {**TARGETS, "psnr_loss_db": MAX_LOSS_DB, "lpips_loss": MAX_LPIPS_LOSS},
        "met": bool(met),
        "results": rows,
        "seed": SEED,
        **circumstances(device),
    }


def measured(case: Case, indexed: int | None, device: torch.device) -> dict[str, Any]:
    """Return the figures of one case, with those of random access among `indexed` copies of its images if given."""
    started = time.process_time()
    packed = [pack_within(Packing(), *pair, case.viewer) for pair in zip(case.codes, case.targets, strict=True)]
    search_s = (time.process_time() - started) / len(packed)
    sizes = [len(write_npz(one.arrays)) for one in packed]
    savez, saved, dense = zip(*map(_dense_sizes, case.codes), strict=True)
    row: dict[str, Any] = {
        "case": case.name,
        "images": len(packed),
        "median_bytes": int(statistics.median(sizes)),
        "psnr_loss_db": round(max(one.psnr_loss_db or 0.0 for one in packed), 4),
        "psnr_loss_db_mean": round(statistics.fmean(one.psnr_loss_db or 0.0 for one in packed), 4),
        "lpips_loss": round(max(one.lpips_loss or 0.0 for one in packed), 6),
        "formats": sorted({one.format for one in packed}),
        "share_of_float16": round(sum(sizes) / sum(len(write_npz(pack_codes(c, 0))) for c in case.codes), 3),
        "search_s": round(search_s, 2),
        "pack_mb_s": round(_pack_mb_s(case, packed, dense), 1),
        "ratio_savez": round(sum(sizes) / sum(savez), 4),
        "ratio_torch_save": round(sum(sizes) / sum(saved), 4),
    }
    with tempfile.TemporaryDirectory() as folder:
        records = [record_of(f"{number:06d}", one.arrays) for number, one in enumerate(packed)]
        ledger = write_store(Path(folder), [records])
        if case.read > len(records):
            enlarge(ledger, Path(folder), case.read)
        share = statistics.median(_share_of_bare(Path(folder), case, device) for _ in range(ROUNDS))
        row["reader_share_of_bare_synthesis"] = round(share, 3)
        if indexed is not None:
            row |= _random_access(ledger, Path(folder), indexed)
    print(f"{case.name}: {row}", flush=True)
    return row


def _dense_sizes(codes: Codes) -> tuple[int, int, int]:
    """Return the bytes of dense float32 codes: compressed by numpy, saved by torch, in memory."""
    tensors = {"w_plus": codes.w_plus, **codes.deltas, **{f"{s}.mask": mask for s, mask in codes.masks.items()}}
    compressed, saved = io.BytesIO(), io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    np.savez_compressed(compressed, **arrays)
    torch.save({name: tensor.cpu().clone() for name, tensor in tensors.items()}, saved)
    return compressed.tell(), saved.tell(), sum(4 * tensor.numel() for tensor in tensors.values())


def _pack_mb_s(case: Case, packed: Sequence[Packed], dense: Sequence[int]) -> float:
    steps = [_steps(one.arrays) for one in packed]
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for codes, of in zip(case.codes, steps, strict=True):
            write_npz(pack_codes(codes, 0, of))
        rates.append(sum(dense) / 1e6 / (time.process_time() - started))
    return statistics.median(rates)


def _steps(arrays: AnyArrays) -> dict[str, float] | None:
    if any(array.dtype == np.float16 for name, array in arrays.items() if name.endswith(".codes")):
        return None
    return {name.removesuffix(".step"): float(array) for name, array in arrays.items() if name.endswith(".step")}


def of_photographs(folder: Path, most: int, device: torch.device) -> dict[str, Any]:
    """Return the figures of photographs inverted and stored by `Invert`; each of them has its loss in its row."""
    samples = photographs(folder, most)
    records = inverted_photographs(samples, PHOTOGRAPH_STEPS, device)
    formats = Counter(record.row["codes_format"] for record in records)
    loss_db, lpips_loss = ([_number(record, name) for record in records] for name in ("psnr_loss_db", "lpips_loss"))
    row: dict[str, Any] = {
        "case": f"photographs in the demo's generator, 64 px, {PHOTOGRAPH_STEPS} steps",
        "images": len(records),
        "tars": len({sample.shard for sample in samples}),
        "median_bytes": int(statistics.median(len(write_npz(record.arrays)) for record in records)),
        "psnr_db": round(statistics.fmean(_number(record, "psnr_db") for record in records), 2),
        "psnr_loss_db": round(max(loss_db), 4),
        "psnr_loss_db_mean": round(statistics.fmean(loss_db), 4),
        "lpips_loss": round(max(lpips_loss), 6),
        "formats": dict(sorted(formats.items())),
    }
    print(f"{row['case']}: {row}", flush=True)
    return row


def _number(record: Record, column: str) -> float:
    value = record.row[column]
    assert isinstance(value, float), f"{record.key}: {column} is {value}"
    return value


def _random_access(ledger: Ledger, folder: Path, indexed: int) -> dict[str, Any]:
    """Return the times to open an index of many images, and to get images of it by key."""
    began = time.perf_counter()
    enlarge(ledger, folder, indexed)
    started = time.perf_counter()
    bundles = open_bundles(folder)
    opened = time.perf_counter()
    keys = bundles.keys()
    looked_up = time.perf_counter()
    assert bundles[keys[0]].codes is not None
    first_s, chosen, taken = time.perf_counter() - looked_up, random.Random(SEED), []
    for key in chosen.sample(keys, LOOKUPS):
        asked = time.perf_counter()
        assert bundles[key].codes is not None
        taken.append(1000 * (time.perf_counter() - asked))
    return {
        "indexed": len(keys),
        "written_s": round(started - began, 2),
        "open_s": round(opened - started, 2),
        "first_s": round(first_s, 2),
        "random_access_ms": round(statistics.median(taken), 2),
    }


@torch.no_grad()
def _share_of_bare(folder: Path, case: Case, device: torch.device) -> float:
    """Return the time of synthesis of codes in memory, relative to reading, unpacking and synthesis."""
    generator, size = case.viewer.generator, 4

    def synthesise(batches: Iterator[tuple[Tensor, Any, Any]]) -> float:
        started = _now(device)
        for w_plus, deltas, masks in batches:
            generator.synthesize(w_plus, deltas, masks)
        return _now(device) - started

    def read() -> Iterator[tuple[Tensor, Any, Any]]:
        return ((batch.w_plus, batch.deltas, batch.masks) for batch in open_bundles(folder).batches(size, device))

    kept = list(read())
    return synthesise(iter(kept)) / synthesise(read())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    sys.exit(main())
