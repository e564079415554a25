"""`invertmill render`: the stored reconstruction of inverted images, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command(name="render")
def render(
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    keys: Annotated[
        list[str] | None, typer.Argument(help="keys of the images; all by default", metavar="[KEY]...")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the images", metavar="FOLDER")] = Path("rendered"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Write the stored reconstruction of published images as PNG."""
    from pipeline.config import load_config
    from pipeline.data.stores import Stores
    from pipeline.execution.progress import Progress
    from pipeline.publish.rendering import Rendering

    progress = Progress(Console(stderr=True))
    settings = load_config(config, overrides or ())
    with progress.doing("reading the index"):
        stores = Stores.from_config(settings)
        rendering = Rendering.from_published(settings, stores, keys or ())
    with progress.doing("rendering"):
        count = rendering.write(out)
    Console().print(f"rendered {count} images into {out}", soft_wrap=True)
