"""`invertmill study`: a user study of committed results, and what its answers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.study.answers import StudyResult

app = typer.Typer(no_args_is_help=True, help="Make a user study of committed results, and read its answers.")
console = Console()


@app.command()
def make(
    study: Annotated[Path, typer.Argument(help="the study's YAML file", metavar="STUDY")],
    out: Annotated[Path, typer.Option(help="new folder for pages, tasks, pictures and key", metavar="FOLDER")] = Path(
        "study"
    ),
) -> None:
    """Write blinded pairs of pictures as static pages, with a table of tasks and the key that is kept secret."""
    from pipeline.execution.progress import Progress
    from pipeline.study.make import make_study
    from pipeline.study.settings import load_study

    settings = load_study(study)
    with Progress(Console(stderr=True)).doing("rendering pictures and pages"):
        made = make_study(settings, out)
    console.print(
        f"wrote {made.comparisons} comparisons of {made.images} images on {made.pages} pages into {out}; give each of "
        f"{made.forms} annotators a page and the code of a form (docs/study.md), and keep key.json to yourself",
        soft_wrap=True,
    )


@app.command()
def read(
    folder: Annotated[Path, typer.Argument(help="the study's folder, with its key", metavar="FOLDER")],
    answers: Annotated[list[Path], typer.Argument(help="files of answers, as pages save them", metavar="ANSWERS...")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print which method annotators preferred, with the spread, and whose answers do not count."""
    from pipeline.study.answers import read_answers, read_key

    result = read_answers(read_key(folder), answers)
    if as_json:
        console.print_json(json.dumps(result.as_json()))
        return
    console.print(_table(result))
    for line in _notes(result):
        console.print(line, soft_wrap=True, markup=False)


def _table(result: StudyResult) -> Table:
    table = Table("preferred", "to", box=None, header_style="bold")
    for column in ("share", "spread", "95 % interval", "answers", "images", "annotators"):
        table.add_column(column, justify="right")
    for one in result.preferences:
        figures = (
            f"{100 * one.share:.1f} %",
            f"{100 * one.spread:.1f} %",
            f"{100 * one.low:.1f} to {100 * one.high:.1f} %",
        )
        table.add_row(*one.pair, *figures, *map(str, (one.answers, one.images, one.annotators)))
    return table


def _notes(result: StudyResult) -> list[str]:
    """Return what limits the figures, a line each."""
    notes = [
        f"{result.task}: {result.answers} answers of {result.annotators} annotators; spread: bootstrap over images and "
        "annotators"
    ]
    if result.left is not None:
        notes.append(f"the left picture was chosen in {100 * result.left:.1f} % of them")
    notes += [
        f"excluded: {one.annotator}, form {one.code} ({one.answers} answers): {one.reason}" for one in result.excluded
    ]
    if result.unanswered:
        notes.append(f"{result.unanswered} tasks of answered forms have no answer")
    if result.unanswered_forms:
        notes.append(f"not answered: forms {', '.join(result.unanswered_forms)}")
    return notes
