"""The page of an evaluation: one HTML file with tables, claims, drawings and the grid, which needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.charts import draw_seconds, draw_trade_off
from pipeline.evaluation.grid import Grid, GridRow
from pipeline.evaluation.tables import (
    EDITING,
    HEADINGS,
    PROXIES,
    Evaluation,
    Line,
    cells_of,
    editing_cells_of,
    verdicts_of,
)
from pipeline.report.charts import Drawing, draw_compact
from pipeline.report.summary import SAM
from pipeline.report.templates import page_environment, verbatim


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Tile:
    """A picture of the grid, None where a method does not have the image."""

    drawing: Drawing | None
    alt: str
    figure: str = ""


def render_page(title: str, evaluation: Evaluation, grid: Grid) -> str:
    """Return the page."""
    environment = page_environment()
    return environment.get_template("evaluation.html.j2").render(
        title=title,
        sam=SAM,
        style=verbatim(environment, "report.css"),
        tables=_tables(evaluation),
        claims=evaluation.claims,
        verdicts=verdicts_of(evaluation.claims),
        notes=evaluation.circumstances.sentences,
        drawings=[
            drawing
            for drawing in (
                ("Fidelity against editability, single spaces and SAM (Fig. 3.2)", draw_trade_off(evaluation)),
                ("Fidelity against seconds per image (Fig. 4.1)", draw_seconds(evaluation)),
            )
            if drawing[1] is not None
        ],
        grid=[[_tiles(grid, row, edited) for edited in _kinds(grid)] for row in grid.rows],
        columns=("input", *grid.methods),
        edit=grid.edit,
        proxies=PROXIES if any(line.editability is not None for line in evaluation.lines) else (),
    )


def _tables(evaluation: Evaluation) -> list[Table]:
    tables = [
        _table("Table 4.1, optimisation", evaluation.regime("optimisation")),
        _table("Table 4.1, encoder", evaluation.regime("encoder")),
        _table("Ablations (Sec. 4.6)", evaluation.ablations),
    ]
    edited = [line for line in evaluation.lines if line.editability is not None]
    tables.append(Table("Editability", EDITING, [editing_cells_of(line) for line in edited]))
    return [table for table in tables if table.rows]


def _table(title: str, lines: Sequence[Line]) -> Table:
    return Table(title, HEADINGS, [cells_of(line) for line in lines])


def _kinds(grid: Grid) -> Sequence[bool]:
    """Return whether each line of an image is edited."""
    return (False, True) if grid.edit else (False,)


def _tiles(grid: Grid, row: GridRow, edited: bool) -> list[Tile]:
    first = Tile(None, "") if edited else Tile(draw_compact(row.image_HW3), f"Input {row.key}", row.key)
    tiles = [first]
    for name in grid.methods:
        cell = row.cells.get(name)
        picture = None if cell is None else cell.edited_HW3 if edited else cell.inverted_HW3
        if cell is None or picture is None:
            tiles.append(Tile(None, ""))
            continue
        what, figure = (f", {grid.edit}", "") if edited else ("", f"{cell.psnr_db:.1f} dB")
        tiles.append(Tile(draw_compact(picture), f"{row.key} by {name}{what}", figure))
    return tiles
