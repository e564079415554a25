"""`invertmill edit`: edit what is inverted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command(name="edit")
def edit(
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Edit every inverted image along the configured directions; everything before must be committed."""
    from pipeline.cli import run as cli_run
    from pipeline.config import load_config
    from pipeline.execution.progress import Progress
    from pipeline.execution.run import Run
    from pipeline.publish.pointer import read_pointer
    from stages.edit import Edit

    console = Console()
    mill = Run(load_config(config, overrides or ()), Progress(console))
    finished = mill.only(Edit)
    pointer = read_pointer(finished.plan.ledger)
    if finished.computed == 0 and not finished.failed:
        console.print(f"nothing to do: all {len(finished.index.units)} units are edited")
    for name, own in (pointer.own if pointer is not None else {}).items():
        console.print(f"{name}: {finished.plan.ledger.store.url}, index {', '.join(own.index)}", soft_wrap=True)
    if not cli_run.print_end(console, finished):
        raise typer.Exit(1)
