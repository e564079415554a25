"""`invertmill view`: one image on a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command(name="view")
def view(
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    key: Annotated[str, typer.Argument(help="key of the image", metavar="KEY")],
    out: Annotated[Path | None, typer.Option(help="PNG to write", metavar="FILE", show_default="KEY.png")] = None,
    unit: Annotated[str | None, typer.Option(help="unit of the image, if several images have the key")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Write a sheet of one published image: input, predicted maps, assignment, reconstruction, error."""
    from infra.files import put
    from infra.stores.os_errors import explained
    from pipeline.config import load_config
    from pipeline.execution.progress import Progress
    from pipeline.report.described import described
    from pipeline.report.sheet import view as sheet_of

    settings = load_config(config, overrides or ())
    with Progress(Console(stderr=True)).doing("drawing the sheet"):
        png = sheet_of(described(settings, asked=bool(overrides)), key, unit)
    path = out or Path(f"{key.rpartition('/')[2]}.png")
    with explained(path.parent, "write to"):
        put(path, png)
    Console().print(f"wrote {path}", soft_wrap=True)
