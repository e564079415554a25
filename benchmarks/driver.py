"""The cost of the driver's commands as a run grows: status, resume, publish, verify and a report's figures.

    python -m benchmarks.driver [--quick] --json FILE [--units N]

A synthetic complete run is written to a folder, of N units and of a fifth of them (4 samples per unit, 1,000
units per shard; every receipt, bundle and inventory by the product's own code). Each command then works on it in a
separate process. `_per_unit` figures are the difference of the two sizes per additional unit:
costs that do not grow with a run (imports, networks) are excluded. `publish_again` is the index after
one more shard, of a fiftieth of the units, was committed; `written_again` counts the parts of the index and their
bytes, before and written then.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.harness.driver_work import measured
from benchmarks.harness.synthetic_run import SHARD_UNITS, UNIT_SAMPLES, add_shard, write_run

UNITS, QUICK_UNITS = 10_000, 500
FIFTH, FIFTIETH = 5, 50
COMMANDS = ("publish", "resume", "status", "verify", "figures")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the figures."""
    parser = parser_of("driver", __doc__, f"{QUICK_UNITS} units, not {UNITS:,}")
    parser.add_argument("--units", type=int, default=None, help="units per stage", metavar="N")
    options = parser.parse_args(arguments)
    report = report_of(options.units or (QUICK_UNITS if options.quick else UNITS))
    write_report(options.json, report)
    return 0


def report_of(units: int) -> dict[str, Any]:
    """Return the figures of two sizes, and their increase per unit."""
    sizes = (max(1, units // FIFTH), units)
    small, large = (_of_size(size) for size in sizes)
    more = sizes[1] - sizes[0]
    written = large.pop("written_again")
    commands = {name: large[name] | _per_unit(small[name], large[name], more) for name in large}
    for name, row in commands.items():
        print("  ".join([f"{name:14}", *(f"{figure} {value}" for figure, value in row.items())]), flush=True)
    print("written again  " + "  ".join(f"{name} {count:.0f}" for name, count in written.items()), flush=True)
    return {
        "benchmark": "driver",
        "units": {
            "cpu_s": "seconds of all threads, for the larger run",
            "wall_s": "seconds",
            "peak_mb": "MiB of the whole process",
            "cpu_ms_per_unit": "ms",
            "wall_ms_per_unit": "ms",
            "peak_bytes_per_unit": "bytes",
        },
        "run_units": sizes,
        "unit_samples": UNIT_SAMPLES,
        "shard_units": SHARD_UNITS,
        "results": commands,
        "written_again": written,
        **circumstances(torch.device("cpu")),
    }


def _of_size(units: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, units)
        figures = {command: measured(command, folder) for command in COMMANDS}
        before = _parts(folder)
        add_shard(folder, max(1, units // FIFTIETH))
        figures["publish_again"] = measured("publish", folder)
        new = _parts(folder).items() - before.items()
        written = {"parts_before": len(before), "parts_written": len(new), "bytes_before": sum(before.values())}
        return figures | {"written_again": {**written, "bytes_written": sum(size for _, size in new)}}


def _parts(folder: Path) -> dict[str, int]:
    """Return the size of each part of the index."""
    return {str(path): path.stat().st_size for path in (folder / "store/bundles/publish").glob("*/part/*/*.parquet")}


def _per_unit(small: Mapping[str, float], large: Mapping[str, float], units: int) -> dict[str, float]:
    return {
        "cpu_ms_per_unit": round(1000 * (large["cpu_s"] - small["cpu_s"]) / units, 4),
        "wall_ms_per_unit": round(1000 * (large["wall_s"] - small["wall_s"]) / units, 4),
        "peak_bytes_per_unit": round(2**20 * (large["peak_mb"] - small["peak_mb"]) / units),
    }


if __name__ == "__main__":
    sys.exit(main())
