"""`invertmill export`: published codes in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command(name="export")
def export(
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    kind: Annotated[str, typer.Option("--format", help="npy, pt, pti or dataset", metavar="FORMAT")] = "npy",
    out: Annotated[Path | None, typer.Option(help="file or folder to write", metavar="PATH")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Write the published codes for other tools: w_plus as [N, num_ws, w_dim], as PTI reads it, or a whole data set."""
    from infra.stores.os_errors import explained
    from pipeline.config import load_config
    from pipeline.errors import CommandError
    from pipeline.execution.progress import Progress
    from pipeline.export.formats import FORMATS
    from pipeline.export.published import PublishedCodes

    if kind not in FORMATS:
        raise CommandError(f"there is no format {kind!r}; choose among {', '.join(FORMATS)}")
    target = out or Path(FORMATS[kind].target)
    if target.exists() and not force:
        raise CommandError(f"{target} exists already; choose another name, or replace it with --force")
    progress = Progress(Console(stderr=True))
    with progress.doing("writing codes"), explained(target.parent, "write to"):
        codes = PublishedCodes.from_config(load_config(config, overrides or ()))
        written = FORMATS[kind].write(codes, target)
    if not FORMATS[kind].whole and codes.deltas:
        progress.warn(
            "the images have deltas or tuned weights, which this format leaves out; from w_plus alone, they look as in "
            "W+"
        )
    Console().print(written, soft_wrap=True)
