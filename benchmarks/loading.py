"""Seconds and memory to load a generator from every StyleGAN2 checkpoint format: `python -m benchmarks.loading`.

Files of real size (config-f, 1024 px, random weights) are written, then each is loaded in a fresh process whose imports
done, from a warm file cache. It is compared with the stock reader of the same file, if there is one that needs no
code of the file: it returns tensors, not a generator.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.command import circumstances, write_report
from generators import load_generator
from generators.checkpoints import save_generator
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Config
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.published import ada_arguments, network_pickle, persistent, pickled

SEED = 0
RESOLUTION_PX = 1024
REPEATS = 3
MAX_SECONDS = 10.0
MAX_GROWTH = 2.5
"""Maximum memory for loading, in addition to the process's before, relative to the size of the file."""

PUBLISHED = "NVIDIA .pkl with G, D and G_ema"
FILES: dict[str, Callable[[StyleGAN2, Path], None]] = {
    "invertmill .safetensors": lambda generator, path: save_generator(generator, path, about="random"),
    "NVIDIA .pkl with G_ema alone": lambda generator, path: _write(
        path, network_pickle(generator.state_dict(), ada_arguments(generator.config))
    ),
    PUBLISHED: lambda generator, path: _write(path, _three_networks(generator)),
    "TensorFlow .pkl, one network thrice": lambda generator, path: _write(
        path, tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config))
    ),
    "rosinality .pt": lambda generator, path: _write(path, torch_file(_rosinality(generator))),
    "rosinality .pt, legacy": lambda generator, path: _write(path, torch_file(_rosinality(generator), legacy=True)),
    "rosinality .pt without latent_avg": lambda generator, path: _write(
        path, torch_file({"g_ema": rosinality_state(generator)})
    ),
}


def main() -> int:
    """Run the benchmark; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"load each file once, not {REPEATS} times")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stock", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(_measure(options.load, stock=options.stock)))
        return 0
    if not options.json:
        parser.error("--json FILE is needed")
    report = _report(1 if options.quick else REPEATS)
    write_report(options.json, report)
    return 0 if report["met"] else 1


def _report(repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(name, Path(folder) / "checkpoint", repeats) for name in FILES]
    return {
        "benchmark": "loading",
        "units": {"seconds": "s, median", "growth": "peak memory above the process's before, over the file's size"},
        "targets": {"seconds": MAX_SECONDS, "growth": MAX_GROWTH},
        "met": all(row["seconds"] < MAX_SECONDS and row["growth"] < MAX_GROWTH for row in rows),
        "results": rows,
        "repeats": repeats,
        "seed": SEED,
        "generator": f"StyleGAN2 config-f, {RESOLUTION_PX} px, random weights",
        **circumstances(torch.device("cpu")),
    }


def _row(name: str, path: Path, repeats: int) -> dict[str, Any]:
    torch.manual_seed(SEED)
    generator = StyleGAN2(StyleGAN2Config(z_dim=512, w_dim=512, img_resolution=RESOLUTION_PX)).freeze()
    FILES[name](generator, path)
    del generator
    size = path.stat().st_size
    row: dict[str, Any] = {"format": name, "file_bytes": size}
    for side in ("", "stock_") if _stock_reader(path) else ("",):
        runs = [_fresh_process(path, stock=bool(side)) for _ in range(repeats)]
        row[f"{side}seconds"] = round(statistics.median(run["seconds"] for run in runs), 3)
        row[f"{side}growth"] = round(max(run["growth_bytes"] for run in runs) / size, 3)
    print(f"{name:36} {size / 1e6:6.0f} MB {row['seconds']:7.2f} s {row['growth']:6.2f} × the file", flush=True)
    return row


def _fresh_process(path: Path, *, stock: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", "--load", str(path), *(["--stock"] if stock else [])]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _measure(path: Path, *, stock: bool) -> dict[str, float]:
    read = _stock_reader(path) if stock else load_generator
    assert read is not None
    before = _memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.perf_counter()
    kept = read(path)
    seconds = time.perf_counter() - start
    growth = _memory_bytes("VmHWM") - before
    del kept
    return {"seconds": seconds, "growth_bytes": growth}


def _memory_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _stock_reader(path: Path) -> Callable[[Path], object] | None:
    """Return a reader of the same file that is not ours; None for pickles, whose stock reader runs their code."""
    with path.open("rb") as file:
        opening = file.read(16)
    if opening[8:9] == b"{":
        from safetensors.torch import load_file

        return load_file
    if opening.startswith((b"PK", b"\x80\x02\x8a")):
        return lambda path: torch.load(path, weights_only=True)
    return None


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _rosinality(generator: StyleGAN2) -> dict[str, Any]:
    return {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}


def _three_networks(generator: StyleGAN2) -> bytes:
    """Return a pickle with a copy of the generator instead of the discriminator, which is about as large."""
    networks = [persistent({name: tensor.clone() for name, tensor in generator.state_dict().items()}) for _ in "GD"]
    ema = persistent(generator.state_dict(), _init_args=(), _init_kwargs=ada_arguments(generator.config))
    return pickled({"G": networks[0], "D": networks[1], "G_ema": ema})


if __name__ == "__main__":
    sys.exit(main())
