"""The size and speed of stored codes: bytes per image, loss, packing, random access, and reading next to synthesis.

    python -m benchmarks.bundles [--quick] --json FILE

Two cases. The demo's scenes are inverted in the demo's generator, so their deltas are real. A config-f generator of 512
px has random weights, and deltas drawn from a Laplace distribution with a scale per channel, with 45 % of the pixels in
W+, 25 % in F4, 15 % in F6, 10 % in F8 and 5 % in F10; its photographs are its pictures with noise, at 23 dB. Sizes are
compared with `numpy.savez_compressed` and `torch.save` of the dense float32 codes. Times on a CPU are of the processor,
so that a machine with other work gives the same ones; random access is by the clock.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.bundle_store import enlarge, record_of, write_store
from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.supervision import scenes
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from generators.generator import Generator
from generators.latents import Codes, masks_of
from generators.source import GeneratorSource
from infra.bundles import write_npz
from pipeline.bundles.reader import open_bundles
from stages.base.stage import Record
from stages.engine.schedule import Schedule
from stages.inversion.packing import AnyArrays, pack_codes, unpack_codes
from stages.inversion.rounding import Packed, Packing, pack_within
from stages.inversion.starts import Learnt
from stages.inversion.viewer import Viewer
from stages.invert import REFINED, Invert
from stages.maps.region import Region, fit
from stages.objective.objective import Objective
from stages.perceptual import load_perceptual
from stages.perceptual.source import PerceptualSource

SEED = 0
ASSETS = Path(__file__).parents[1] / "pipeline/demo/assets"
SHARES = {"W+": 0.45, "F4": 0.25, "F6": 0.15, "F8": 0.10, "F10": 0.05}
DEMO_IMAGES, LARGE_IMAGES, LOOKUPS, ROUNDS = 12, 3, 200, 3
INDEXED, QUICK_INDEXED = 1_000_000, 100_000
TARGETS = {"median_bytes": 350_000, "pack_mb_s": 200.0, "random_access_ms": 50.0, "reader_share": 0.9}
MAX_LOSS_DB, MAX_LPIPS_LOSS = 0.05, 0.001


@dataclass(frozen=True)
class Case:
    """Codes as found, with the photographs that they are compared with."""

    name: str
    viewer: Viewer
    codes: list[Codes]
    targets: list[Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures; return 1 if a limit of the loss is exceeded or a target missed."""
    options = parser_of("bundles", __doc__, "the demo's generator and a smaller index").parse_args(arguments)
    device = torch.device(options.device)
    cases = [demo_case(device)] + ([] if options.quick else [large_case(device)])
    rows = [measured(case, QUICK_INDEXED if options.quick else INDEXED, device) for case in cases]
    worst_db, worst_lpips = (max(row[name] for row in rows) for name in ("psnr_loss_db", "lpips_loss"))
    met = worst_db <= MAX_LOSS_DB and worst_lpips <= MAX_LPIPS_LOSS
    if not options.quick:
        large = rows[-1]
        met &= large["median_bytes"] <= TARGETS["median_bytes"] and large["pack_mb_s"] >= TARGETS["pack_mb_s"]
        met &= large["random_access_ms"] <= TARGETS["random_access_ms"]
        met &= large["reader_share_of_bare_synthesis"] >= TARGETS["reader_share"]
    report = {
        "benchmark": "bundles",
        "units": {
            "median_bytes": "bytes of an image's codes in its npz",
            "psnr_loss_db": "dB lost by storing the codes, worst image",
            "lpips_loss": "increase of the perceptual distance, worst image; demo network, not LPIPS-VGG",
            "pack_mb_s": "MB of dense float32 codes per second of one core: rounding at known steps, npz",
            "search_s": "s (of all threads on a CPU) to find the steps of an image",
            "random_access_ms": "ms from a key to unpacked codes, median, in an index of `indexed` images",
            "open_s": "s to open that index; first_s: to its first image",
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
    write_report(options.json, report)
    return 0 if met else 1


def demo_case(device: torch.device) -> Case:
    """Return scenes of the demo, inverted in 50 steps with stripes of all spaces, as found up to float16."""
    stage = Invert(
        generator=GeneratorSource(checkpoint=ASSETS / "generator.safetensors"),
        perceptual=PerceptualSource(backbone="small", weights=ASSETS / "perceptual.safetensors"),
        objective=Objective(lambda_lpips=0.2, lambda_variation=1e-4, lambda_delta=1.0, shrinkage=1e-3),
        schedule=Schedule(steps=50, learning_rate=0.1),
        start=Learnt(samples=1024),
        bundles=Packing(max_loss_db=0),
    )
    viewer = stage.viewer(device)
    side, spaces = viewer.generator.resolution, len(viewer.spaces)
    stripes_HW = np.repeat((np.arange(side) * spaces // side).astype(np.uint8)[None], side, axis=0)
    refined = Record("", {}, {"assignment_HW": stripes_HW})
    samples = [replace(sample, records={REFINED: refined}) for sample in scenes(DEMO_IMAGES)]
    records = [record for record in stage.setup(device)(samples) if isinstance(record, Record)]
    codes = [unpack_codes(None, record.arrays, device) for record in records]
    by_key = {sample.key: stage.image.picture(sample).pixels_HW3 for sample in samples}
    targets = [fit(by_key[record.key], viewer.region)[None].to(device) for record in records]
    return Case("demo, 64 px, inverted", viewer, codes, targets)


def large_case(device: torch.device) -> Case:
    """Return random codes of a config-f generator of 512 px with random weights, and noisy pictures of them."""
    torch.manual_seed(SEED)
    config = StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=512)
    generator = StyleGAN2(config).freeze().to(device)
    perceptual = load_perceptual("small", weights=ASSETS / "perceptual.safetensors", device=device)
    viewer = Viewer(generator, perceptual, Region.whole(512), tuple(SHARES))
    codes = [_random_codes(generator, number) for number in range(LARGE_IMAGES)]
    return Case("config-f, 512 px, random weights", viewer, codes, [_noisy(viewer, one) for one in codes])


def _random_codes(generator: Generator, seed: int) -> Codes:
    drawn = torch.Generator().manual_seed(SEED + seed)
    side, spaces = generator.resolution, tuple(SHARES)
    edges = np.round(np.cumsum(list(SHARES.values())) * side).astype(int)
    assignment_1HW = torch.from_numpy(np.searchsorted(edges, np.arange(side), side="right"))[None, None, :]
    masks = masks_of(assignment_1HW.expand(1, side, side), spaces, generator.feature_shapes)
    device = next(generator.parameters()).device
    w_plus = generator.map(torch.randn(1, generator.z_dim, generator=drawn).to(device))
    deltas = {}
    for space in masks:
        channels, height, width = generator.feature_shape(space)
        scale_C11 = torch.exp(0.7 * torch.randn(channels, 1, 1, generator=drawn))
        uniform = torch.rand(channels, height, width, generator=drawn) - 0.5
        laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.49999))
        deltas[space] = (0.3 * scale_C11 * laplace)[None].to(device)
    return Codes(w_plus, deltas, {space: mask.half().float().to(device) for space, mask in masks.items()})


def _noisy(viewer: Viewer, codes: Codes) -> Tensor:
    picture = viewer.picture(codes)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(SEED)).to(picture.device)
    return (picture + 2 * 10 ** (-23 / 20) * noise).clamp(-1, 1)


def measured(case: Case, indexed: int, device: torch.device) -> dict[str, Any]:
    """Return the figures of one case."""
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
        row |= _reading(Path(folder), case, packed, indexed, device)
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


def _reading(folder: Path, case: Case, packed: Sequence[Packed], indexed: int, device: torch.device) -> dict[str, Any]:
    records = [record_of(f"{number:06d}", one.arrays) for number, one in enumerate(packed)]
    ledger = write_store(folder, [records])
    share = statistics.median(_share_of_bare(folder, case, device) for _ in range(ROUNDS))
    enlarge(ledger, folder, indexed)
    started = time.perf_counter()
    bundles = open_bundles(folder)
    opened = time.perf_counter()
    keys = bundles.keys()
    looked_up = time.perf_counter()
    assert bundles[keys[0]].codes is not None
    first_s, chosen, taken = time.perf_counter() - looked_up, random.Random(SEED), []
    for key in chosen.sample(keys, LOOKUPS):
        began = time.perf_counter()
        assert bundles[key].codes is not None
        taken.append(1000 * (time.perf_counter() - began))
    return {
        "reader_share_of_bare_synthesis": round(share, 3),
        "indexed": len(keys),
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
