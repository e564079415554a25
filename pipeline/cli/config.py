"""`invertmill config` and `invertmill schema`: every key of a configuration, for people and for editors."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer()


@app.command(name="config")
def config() -> None:
    """Print every key of a configuration with its default and meaning."""
    from pipeline.config import RunConfig
    from pipeline.config_keys import keys_of

    console = Console()
    for key in keys_of(RunConfig):
        line = Text(key.path, style="bold" if key.default is None else "")
        line.append(":" if key.default is None else f": {key.default}")
        meaning = f"({key.kind}) {key.meaning}" if key.kind else key.meaning
        console.print(line.append(f"  # {meaning}" if meaning else "", style="dim"), soft_wrap=True, highlight=False)


@app.command(name="schema")
def schema() -> None:
    """Print the JSON schema of a configuration, for editors that complete YAML."""
    import json

    from pipeline.config import RunConfig
    from pipeline.config_schema import schema_of

    print(json.dumps(schema_of(RunConfig), indent=2))  # unwrapped: a console would wrap it
