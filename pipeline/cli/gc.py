"""`invertmill gc`: delete what a store no longer needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer()


@app.command(name="gc")
def gc(  # noqa: PLR0917  # typer's options
    config: Annotated[Path, typer.Argument(help="the run's YAML file", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a setting: a.b=c", metavar="KEY=VALUE")
    ] = None,
    do: Annotated[
        bool, typer.Option("--delete", help="delete what is no longer needed, instead of only printing it")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="number of newest published versions to keep, whether pointed to or not")
    ] = 2,
    superseded: Annotated[
        bool,
        typer.Option(
            "--superseded", help="include results of settings that neither this configuration nor a kept version needs"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print what the store no longer needs, by reason, in files and bytes; delete it with --delete."""
    from pipeline.config import load_config
    from pipeline.data.stores import Stores
    from pipeline.execution.progress import Progress
    from pipeline.operations.garbage import delete, garbage_of
    from pipeline.plan.plan import Plan

    console, progress = Console(), Progress(Console(stderr=True))
    settings = load_config(config, overrides or ())
    with progress.doing("listing the store"):
        stores = Stores.from_config(settings)
        stores.check(write=do)
        plan = Plan(settings, stores)
        groups = garbage_of(plan, keep=keep, superseded=superseded)
    if do:
        with progress.doing("deleting"):
            delete(plan.ledger, groups)
    if as_json:
        rows = [{"reason": group.reason, "files": len(group.names), "bytes": group.size_bytes} for group in groups]
        console.print_json(json.dumps({"deleted": do, "garbage": rows}))
        return
    table = Table("", "files", "bytes", box=None, header_style="bold")
    for group in groups:
        table.add_row(group.reason, f"{len(group.names):,}", f"{group.size_bytes:,}")
    console.print(table)
    console.print("deleted" if do else "nothing was deleted: --delete does it")
