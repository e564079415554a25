"""From bundles to an evaluation, and its files: parquet, Markdown and `summary.json` in the folder of a run."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from infra.files import staged
from infra.stores.os_errors import explained
from pipeline.evaluation.claims import Judge
from pipeline.evaluation.grid import Grid, grid_of, sheet
from pipeline.evaluation.measured import Measured, measured, occluded_names
from pipeline.evaluation.methods import Compared, section_of
from pipeline.evaluation.page import render_page
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.tables import (
    EDITING,
    HEADINGS,
    PROXIES,
    Circumstances,
    Evaluation,
    cells_of,
    claims_rows,
    editing_cells_of,
    line_of,
    markdown,
    summary_of,
)
from pipeline.plan.plan import Plan
from pipeline.report.conclude import viewer_of

FOLDER, SUMMARY, PAGE = "evaluation", "summary.json", "evaluation.html"
_SHARED = ("methods", "claims", "evaluation")


def concluded(plan: Plan, methods: Sequence[Compared]) -> Evaluation:
    """Return everything that the bundles of some methods say."""
    section = section_of(plan)
    bootstrap = Bootstrap(section.resamples, section.seed)
    found = tuple(measured(method) for method in methods)
    occluded = occluded_names(plan)
    claims = Judge(found, plan.spaces, bootstrap, occluded).claims()
    lines = tuple(line_of(one, bootstrap) for one in found)
    return Evaluation(_circumstances(plan, found, bootstrap), lines, tuple(claims), found, occluded)


def pictured(evaluation: Evaluation, plan: Plan) -> Grid:
    """Return the grid of an evaluation, rendered from the codes as stored."""
    return grid_of(evaluation.methods, viewer_of(plan), section_of(plan).pictures, evaluation.occluded)


def write(evaluation: Evaluation, grid: Grid, folder: Path) -> Path:
    """Write all files into `folder/evaluation`, and methods and claims into `folder/summary.json`; return the page.

    What `summary.json` holds of a run stays as it is.
    """
    own = folder / FOLDER
    with explained(folder, "write to"):
        own.mkdir(parents=True, exist_ok=True)
        _write_tables(evaluation, own)
        _write_text(own / PAGE, render_page(folder.name, evaluation, grid))
        if grid.rows:
            with staged(own / "grid.png") as partial:
                partial.write_bytes(sheet(grid))
        summary = summary_of(evaluation)
        _write_text(own / SUMMARY, json.dumps(summary, indent=2) + "\n")
        _write_text(folder / SUMMARY, json.dumps(_of_run(folder / SUMMARY) | summary, indent=2) + "\n")
    return own / PAGE


def _of_run(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if name not in _SHARED} if isinstance(found, dict) else {}


def _write_tables(evaluation: Evaluation, folder: Path) -> None:
    beside, notes = evaluation.circumstances, evaluation.circumstances.sentences
    tables = {
        "table-4.1-optimisation": ("Table 4.1, optimisation", evaluation.regime("optimisation")),
        "table-4.1-encoder": ("Table 4.1, encoder", evaluation.regime("encoder")),
        "figure-3.2": ("Single spaces (Fig. 3.2)", evaluation.single),
        "figure-4.1": ("Quality against seconds per image (Fig. 4.1)", list(evaluation.lines)),
        "ablations": ("Ablations (Sec. 4.6)", evaluation.ablations),
    }
    for name, (title, lines) in tables.items():
        _write_parquet(folder / f"{name}.parquet", [line.flat() for line in lines], beside)
        _write_text(folder / f"{name}.md", markdown(title, HEADINGS, map(cells_of, lines), notes))
    edited = [line for line in evaluation.lines if line.editability is not None]
    proxies = [*notes, *PROXIES]
    _write_text(folder / "editability.md", markdown("Editability", EDITING, map(editing_cells_of, edited), proxies))
    rows = [dataclasses.asdict(row) for one in evaluation.methods for row in one.rows]
    _write_parquet(folder / "images.parquet", rows, beside)
    _write_parquet(folder / "claims.parquet", [dataclasses.asdict(claim) for claim in evaluation.claims], beside)
    headings = ("claim", "source", "verdict", "figure")
    _write_text(folder / "claims.md", markdown("Claims", headings, claims_rows(evaluation.claims), notes))


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]], beside: Circumstances) -> None:
    metric = ("perceptual", "perceptual_digest", "height_px", "width_px", "hardware")
    columns = {name: getattr(beside, name) for name in metric}
    table = pa.Table.from_pylist([{**row, **columns} for row in rows])
    about = {"invertmill.evaluation": json.dumps(dataclasses.asdict(beside))}
    with staged(path) as partial:
        pq.write_table(table.replace_schema_metadata(about), partial)


def _write_text(path: Path, text: str) -> None:
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # a key may hold surrogates


def _circumstances(plan: Plan, methods: Sequence[Measured], bootstrap: Bootstrap) -> Circumstances:
    perceptual = plan.perceptual.load(torch.device("cpu"))
    height, width = plan.region.size
    return Circumstances(
        perceptual=perceptual.name,
        perceptual_digest=perceptual.digest,
        height_px=height,
        width_px=width,
        images=max((len(one.rows) for one in methods), default=0),
        hardware=_hardware(sorted({device for one in methods for device in one.devices})),
        generator=plan.generator.digest,
        spaces=plan.spaces,
        threshold=plan.config.refine_maps.threshold,
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )


def _hardware(devices: Sequence[str]) -> str:
    """Return the devices of workers; a processor is named as the machine that writes the tables knows its own."""
    named = [device.replace("cpu", f"one core of {_processor()}", 1) for device in devices]
    return "; ".join(named) or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
