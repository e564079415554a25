"""The commands that need no run: `invertmill inspect` and `invertmill convert`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer()
console = Console()

Checkpoint = Annotated[
    str, typer.Argument(help="a file, a BigGAN-deep folder, s3://BUCKET/KEY or https://…", metavar="CHECKPOINT")
]
Sha256 = Annotated[str | None, typer.Option(help="expected SHA-256 of the checkpoint", metavar="DIGEST")]


class Precision(StrEnum):
    """The type of stored weights."""

    float32 = "float32"
    float16 = "float16"


@app.command()
def inspect(  # noqa: PLR0917  # typer passes options by position
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    samples: Annotated[Path | None, typer.Option(help="write random images to this PNG", metavar="PNG")] = None,
    seed: Annotated[int, typer.Option(help="seed of the random images")] = 0,
    truncation: Annotated[float, typer.Option(help="truncation of the random images; 1 for none", metavar="PSI")] = 1.0,
    sha256: Sha256 = None,
) -> None:
    """Print format, family, spaces and digest of a checkpoint; draw samples."""
    from generators import load_generator
    from pipeline.cli.conversion import describe, write_samples

    generator = load_generator(checkpoint, sha256=sha256)
    found = describe(generator, checkpoint)
    if samples:
        write_samples(checkpoint, samples, seed, truncation, generator.digest)
        found["samples"] = {"sheet": str(samples), "seed": seed, "truncation": truncation}
    if as_json:
        console.print_json(json.dumps(found))
        return
    for name, value in found.items():
        console.print(Text(f"{name:<14}{_in_words(value)}"), soft_wrap=True)


@app.command()
def convert(
    source: Checkpoint,
    target: Annotated[Path, typer.Argument(help="file to write", metavar="TARGET.safetensors")],
    dtype: Annotated[Precision, typer.Option(help="type of the stored weights")] = Precision.float32,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    sha256: Sha256 = None,
) -> None:
    """Write a checkpoint as invertmill's own safetensors, which loads without pickle."""
    from pipeline.cli.conversion import convert as convert_checkpoint

    converted = convert_checkpoint(source, target, dtype.value, force=force, sha256=sha256)
    rounded = "; half precision: images differ slightly from the source's" if dtype is Precision.float16 else ""
    console.print(f"{target}: {target.stat().st_size:,} bytes, {dtype.value}{rounded}", soft_wrap=True)
    console.print(f"sha256 {converted.digest}", soft_wrap=True)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
