"""Everything that wants measuring on a GPU, as parts that can be resumed: what `benchmarks/gpu.sh` runs.

Each part is a benchmark in a process of its own, which writes its figures to a file. A part is complete if the file is
of this part, device and choice of `--quick`; it is skipped then. A part that fails is reported, and the others follow.
No part starts after the time limit, and one that runs is stopped there: the next call continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results/gpu"
LIMIT_S = 600.0
PART_SHARE = 0.4
"""Share of a call's time after which a part has failed."""
ENTRY = "gpu_part"
"""Key of a part's file that names what it was measured for."""


@dataclass(frozen=True)
class Part:
    """A benchmark with its arguments, and the lines that summarise its figures."""

    benchmark: str
    lines: Callable[[Mapping[str, Any]], list[str]]
    arguments: tuple[str, ...] = ()
    quick_arguments: tuple[str, ...] = ()

    def command(self, file: Path, device: str, *, quick: bool) -> list[str]:
        """Return the command that writes the figures to a file."""
        command = [sys.executable, "-m", f"benchmarks.{self.benchmark}", "--json", str(file), "--device", device]
        return [*command, *(("--quick", *self.quick_arguments) if quick else self.arguments)]


def _rows(*columns: str, rows: str = "results") -> Callable[[Mapping[str, Any]], list[str]]:
    """Return what writes a line per row, with some of its columns."""

    def lines(report: Mapping[str, Any]) -> list[str]:
        return [", ".join(f"{name} {row[name]}" for name in columns if name in row) for row in report[rows]]

    return lines


def _roofline(report: Mapping[str, Any]) -> list[str]:
    """Return the fastest product and convolution of each precision and layout."""
    best: dict[str, float] = {}
    for row in (*report["products"], *report["convolutions"]):
        name = f"{row['precision']}, {'convolution ' + row['layout'] if 'layout' in row else 'product'}"
        best[name] = max(best.get(name, 0.0), row["tflops"])
    lines = [f"{name}: {tflops} TFLOP/s" for name, tflops in best.items()]
    return [*lines, f"copy: {report['copy_gb_per_s']} GB/s"]


def _inversion(variant: str, network: str = "config-f 256") -> Part:
    """Return the comparison of the published loop with the engine, in one variant."""
    columns = ("name", "ratio", "ratio_same_network", "images_per_hour", "step_ms", "roofline_share", "compile_s")
    return Part(
        "inversion",
        _rows(*columns, rows="cases"),
        ("--turns", "1", "--case", f"{network}{variant}"),
        ("--turns", "1", "--case", f"demo 64{variant}", "--width", "2"),
    )


PARTS: Mapping[str, Part] = {
    "roofline": Part("roofline", _roofline),
    "inversion": _inversion(""),
    "inversion-bf16": _inversion(" bf16"),
    "widths": Part("widths", _rows("width", "fits", "step_ms", "images_per_second", "ratio", "peak_memory_mb")),
    "throughput": Part("throughput", _rows("network", "task", "images_per_second")),
    "decoding": Part("decoding", _rows("side_px", "pillow_ms", "device_ms", "mean_difference", rows="batches")),
    "inversion-bf16-compiled": _inversion(" bf16 compiled"),
    "inversion-compiled": _inversion(" compiled"),
    "inversion-demo": _inversion("", "demo 64"),
    "inversion-demo-bf16-compiled": _inversion(" bf16 compiled", "demo 64"),
}
"""The parts in the order in which they are measured; those whose time is least certain, by compiling, are late."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts that are not complete, print a summary; return 1 if a part failed or is left."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of the figures, a file per part")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to check the parts")
    parser.add_argument("--quick", action="store_true", help="the demo's networks and few repetitions")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds of this call", metavar="SECONDS")
    parser.add_argument("--part", action="append", choices=PARTS, metavar="NAME", help="only this part; repeatable")
    options = parser.parse_args(arguments)
    if reason := _unusable(options.device):
        parser.error(reason)
    outcomes = measure(
        options.part or list(PARTS), options.folder, options.device, options.limit_s, quick=options.quick
    )
    for name, outcome in outcomes.items():
        print(f"\n{name}: {outcome}")
        for line in _lines(name, options.folder) if outcome in (COMPLETE, MEASURED) else ():
            print(f"  {line}")
    return int(any(outcome not in (COMPLETE, MEASURED) for outcome in outcomes.values()))


COMPLETE, MEASURED, LEFT = "complete before", "measured", "left: the time of this call is over; call again"


def measure(names: Sequence[str], folder: Path, device: str, limit_s: float, *, quick: bool) -> dict[str, str]:
    """Run the parts that are not complete, and return the outcome of each.

    Args:
        names: of parts, in their order.
        folder: of the figures.
        device: for the benchmarks.
        limit_s: seconds for all of them; what does not end within it is left for the next call.
        quick: whether each is the cheap form.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + limit_s
    outcomes = dict[str, str]()
    for name in names:
        entry = {"part": name, "device": device, "quick": quick}
        if _entry(folder / f"{name}.json") == entry:
            outcomes[name] = COMPLETE
        elif (left_s := ends - time.monotonic()) <= 0:
            outcomes[name] = LEFT
        else:
            outcomes[name] = _run(PARTS[name], folder / f"{name}.json", entry, left_s, PART_SHARE * limit_s)
        print(f"{name}: {outcomes[name]}", flush=True)
    return outcomes


def _run(part: Part, file: Path, entry: Mapping[str, Any], left_s: float, most_s: float) -> str:
    """Run a part; its file takes its name only when it is whole."""
    new, log = file.with_suffix(".new"), file.with_suffix(".log")
    new.unlink(missing_ok=True)
    command = part.command(new, entry["device"], quick=entry["quick"])
    started = time.monotonic()
    with log.open("w") as sink:
        try:
            status = subprocess.call(command, stdout=sink, stderr=subprocess.STDOUT, timeout=min(left_s, most_s))
        except subprocess.TimeoutExpired:
            return LEFT if left_s < most_s else f"failed: not done after {most_s:.0f} s (see {log})"
    if not new.exists():
        last = (log.read_text().strip() or "no output").splitlines()[-1]
        return f"failed with status {status}: {last} (see {log})"
    about = {**entry, "seconds": round(time.monotonic() - started, 1), "status": status}
    new.write_text(json.dumps({**json.loads(new.read_text()), ENTRY: about}, indent=1) + "\n")
    new.replace(file)
    return MEASURED


def _entry(file: Path) -> dict[str, Any] | None:
    """Return what a file was measured for; None if it is not there or damaged."""
    try:
        about = json.loads(file.read_text())[ENTRY]
        return {name: about[name] for name in ("part", "device", "quick")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(name: str, folder: Path) -> list[str]:
    report = json.loads((folder / f"{name}.json").read_text())
    about = report[ENTRY]
    missed = [] if about["status"] == 0 else [f"its target was missed (status {about['status']}, see the log)"]
    return [f"{report['device']}, {about['seconds']} s", *PARTS[name].lines(report), *missed]


def _unusable(device: str) -> str | None:
    """Return why a device cannot be used."""
    if not device.startswith("cuda"):
        return None
    import torch

    return None if torch.cuda.is_available() else "no GPU is available to torch: --device cpu --quick checks the parts"


if __name__ == "__main__":
    sys.exit(main())
