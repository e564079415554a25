"""The distance of invertmill from the official implementations' recorded outputs: one row per reference.

    python -m benchmarks.parity [--quick] --json FILE [--references ../shared/golden] [--device cpu]

Ends with 1 if a row is beyond its tolerance, with 2 without the reference data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.command import circumstances, parser_of, write_report
from benchmarks.references import biggan, inversions, sam, stylegan2
from benchmarks.references.comparison import Row, Setting, guarded
from stages.base.device import choose_kernels

SEED = 20261
"""The base seed of the reference data, which include all random numbers."""

PARTS = {"1_stylegan2": stylegan2, "2_sam": sam, "2_sam/inversion": inversions, "3_biggan": biggan}


def main(arguments: list[str] | None = None) -> int:
    """Compare everything, print a table, write the figures, and return the exit status."""
    parser = parser_of("parity", __doc__, "omit the later steps of inversions")
    parser.add_argument("--references", type=Path, default=Path("../shared/golden"), help="folder of the references")
    options = parser.parse_args(arguments)
    missing = [folder for folder in ("1_stylegan2", "2_sam", "3_biggan") if not (options.references / folder).is_dir()]
    if missing:
        print(
            f"no reference data in {options.references}: it lacks {', '.join(missing)}; name their folder (golden/) "
            "with --references",
            file=sys.stderr,
        )
        return 2
    choose_kernels("fp32")
    setting, started = (
        Setting(options.references.resolve(), torch.device(options.device), options.quick),
        time.monotonic(),
    )
    rows = list(_rows(setting))
    figures = _figures(setting, rows, time.monotonic() - started)
    _print(rows, figures)
    write_report(options.json, figures)
    return 1 if figures["failed"] else 0


def _rows(setting: Setting) -> Iterator[Row]:
    for name, part in PARTS.items():
        yield from guarded(name, part.rows(setting))


def _figures(setting: Setting, rows: list[Row], seconds: float) -> dict[str, Any]:
    not_compared = {name: reason for part in PARTS.values() for name, reason in part.NOT_COMPARED.items()}
    return {
        "benchmark": "parity",
        "unit": "largest difference over the largest reference value, unless a note says otherwise",
        "quick": setting.quick,
        "tolerance_factor": setting.factor,
        "seed": SEED,
        **circumstances(setting.device),
        "seconds": round(seconds, 1),
        "compared": len(rows),
        "failed": sum(not row.passed for row in rows),
        "rows": [
            {"name": row.name, "error": _number(row.error), "tolerance": row.tolerance, "passed": row.passed}
            | ({"note": row.note} if row.note else {})
            for row in rows
        ],
        "not_compared": not_compared,
    }


def _number(error: float) -> float | str:
    """Return an error for JSON, which has no infinity."""
    return error if abs(error) < float("inf") else str(error)


def _print(rows: list[Row], figures: dict[str, Any]) -> None:
    table = Table("reference", "error", "tolerance", "", box=None, header_style="bold")
    for row in rows:
        table.add_row(row.name, f"{row.error:.1e}", f"{row.tolerance:.0e}", "" if row.passed else "[red]FAILED[/red]")
        if not row.passed and row.note:
            table.add_row(f"  {row.note}", "", "", "")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"{figures['compared'] - figures['failed']} of {figures['compared']} within tolerance, on "
                  f"{figures['device']} in {figures['seconds']} s")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
