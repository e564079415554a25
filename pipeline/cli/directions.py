"""`invertmill directions`: fit edit directions to a generator, import published ones, show their effect."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generators.directions import AnyDirectionSource, Direction
    from generators.generator import Generator

app = typer.Typer(no_args_is_help=True, help="Fit, import and show edit directions (docs/directions.md).")
fit = typer.Typer(no_args_is_help=True, help="Fit directions to a generator.")
app.add_typer(fit, name="fit")
console = Console()

GeneratorArgument = Annotated[
    str,
    typer.Argument(help="checkpoint: a file, a BigGAN-deep folder, s3://BUCKET/KEY or https://…", metavar="GENERATOR"),
]
Source = Annotated[
    str, typer.Argument(help=".npy, .pt or .safetensors: a file, s3://BUCKET/KEY or https://…", metavar="DIRECTIONS")
]
Target = Annotated[Path, typer.Argument(help="file to write", metavar="TARGET.safetensors")]
Layers = Annotated[
    str | None, typer.Option(help="first and last row of w_plus that the directions change", metavar="FIRST-LAST")
]
Class = Annotated[int | None, typer.Option("--class", help="class of the samples, of a conditional generator")]
Force = Annotated[bool, typer.Option("--force", help="replace an existing file")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Sha256 = Annotated[str | None, typer.Option(help="expected SHA-256 of the file of directions", metavar="DIGEST")]
Run = Annotated[
    Path | None, typer.Option("--run", help="configuration of the run that inverted the images", metavar="CONFIG")
]
ClipFolder = Annotated[
    Path | None, typer.Option(help="CLIP model: a folder written by save_pretrained", metavar="FOLDER")
]
ClipHub = Annotated[
    str | None,
    typer.Option("--clip-hub", help="CLIP model on huggingface.co, instead of a folder", metavar="OWNER/NAME"),
]
ClipRevision = Annotated[str | None, typer.Option("--clip-revision", help="commit of the CLIP model", metavar="COMMIT")]
ClipDownload = Annotated[bool, typer.Option("--download", help="fetch the CLIP model if this machine lacks it")]


class Classifier(StrEnum):
    """A linear boundary."""

    svm = "svm"
    logistic = "logistic"


@fit.command()
def ganspace(  # noqa: PLR0917  # typer passes options by position
    generator: GeneratorArgument,
    target: Target,
    components: Annotated[int, typer.Option(min=1, help="number of components")] = 20,
    samples: Annotated[int, typer.Option(min=2, help="number of draws of w")] = 100_000,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    class_: Class = None,
    layers: Layers = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fit the directions in which w varies most; magnitude 1 is one standard deviation."""
    settings: dict[str, Any] = {
        "components": components,
        "samples": samples,
        "seed": seed,
        "label": class_,
        "layers": _layers(layers),
    }
    _fit(_source("ganspace", settings), generator, target, force=force, as_json=as_json)


@fit.command()
def labels(  # noqa: PLR0917
    generator: GeneratorArgument,
    target: Target,
    scores: Annotated[
        Path, typer.Option(help="parquet with a column `seed` or `key`, and the scores", metavar="PARQUET")
    ],
    column: Annotated[str, typer.Option(help="column of the scores: numbers, or true and false")],
    name: Annotated[str, typer.Option(help="name of the direction", show_default="that of the column")] = "",
    classifier: Annotated[Classifier, typer.Option(help="which linear boundary")] = Classifier.svm,
    share: Annotated[float, typer.Option(help="share of the samples that counts as high, and as low")] = 0.3,
    truncation: Annotated[float, typer.Option(help="truncation of the scored samples", metavar="PSI")] = 1.0,
    class_: Class = None,
    layers: Layers = None,
    config: Run = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fit the direction in which scores of samples or inverted images rise; magnitude 1 is one standard deviation."""
    settings: dict[str, Any] = {
        "scores": scores,
        "column": column,
        "name": name,
        "classifier": classifier.value,
        "share": share,
    }
    settings |= {"truncation": truncation, "label": class_, "layers": _layers(layers)}
    _fit(_source("labels", settings), generator, target, config, force=force, as_json=as_json)


@fit.command()
def styleclip(  # noqa: PLR0917
    generator: GeneratorArgument,
    target: Target,
    neutral: Annotated[str, typer.Option(help="text that describes the images, such as 'a car'")],
    text: Annotated[str, typer.Option(help="text that describes the change, such as 'a sports car'")],
    clip: ClipFolder = None,
    hub: ClipHub = None,
    revision: ClipRevision = None,
    download: ClipDownload = False,
    name: Annotated[str, typer.Option(help="name of the direction", show_default="the text")] = "",
    samples: Annotated[int, typer.Option(min=1, help="number of samples whose derivatives are averaged")] = 100,
    keep: Annotated[float, typer.Option(help="share of the largest relevance below which a channel stays")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="of the samples")] = 0,
    class_: Class = None,
    layers: Layers = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fit the direction from one text to another, by a CLIP model; magnitude 1 is one standard deviation."""
    settings: dict[str, Any] = {
        "clip": _clip(clip, hub, revision, download=download),
        "neutral": neutral,
        "target": text,
        "name": name,
    }
    settings |= {"samples": samples, "keep": keep, "seed": seed, "label": class_, "layers": _layers(layers)}
    _fit(_source("styleclip", settings), generator, target, force=force, as_json=as_json)


@fit.command(name="styleclip-image")
def styleclip_image(  # noqa: PLR0917
    generator: GeneratorArgument,
    target: Target,
    text: Annotated[str, typer.Option(help="text that the image changes towards")],
    image_seed: Annotated[
        int | None, typer.Option(help="edit the generator's sample of this seed", metavar="N")
    ] = None,
    image_key: Annotated[str | None, typer.Option(help="edit the inverted image of this key", metavar="KEY")] = None,
    clip: ClipFolder = None,
    hub: ClipHub = None,
    revision: ClipRevision = None,
    download: ClipDownload = False,
    name: Annotated[str, typer.Option(help="name of the direction", show_default="the text")] = "",
    steps: Annotated[int, typer.Option(min=1, help="of the optimisation")] = 300,
    l2: Annotated[float, typer.Option(help="weight of the squared length of the edit")] = 0.008,
    class_: Class = None,
    layers: Layers = None,
    config: Run = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Optimise the edit of one image towards a text, by a CLIP model; magnitude 1 is the whole edit."""
    settings: dict[str, Any] = {
        "clip": _clip(clip, hub, revision, download=download),
        "target": text,
        "name": name,
        "label": class_,
    }
    settings |= {"image_seed": image_seed, "image_key": image_key, "steps": steps, "l2": l2, "layers": _layers(layers)}
    _fit(_source("styleclip-image", settings), generator, target, config, force=force, as_json=as_json)


@app.command(name="import")
def import_(  # noqa: PLR0917
    source: Source,
    target: Target,
    name: Annotated[str | None, typer.Option(help="name of one direction of the file", show_default="all")] = None,
    new_name: Annotated[str | None, typer.Option("--as", help="new name of the direction", metavar="NAME")] = None,
    generator: Annotated[
        str | None,
        typer.Option(help="checkpoint that the directions must fit; its digest is noted", metavar="GENERATOR"),
    ] = None,
    layers: Layers = None,
    sha256: Sha256 = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write published directions as invertmill's own safetensors, with their provenance."""
    from generators import load_generator
    from generators.directions import read_directions
    from pipeline.cli.direction_files import imported, write

    found = read_directions(source, sha256=sha256)
    chosen = [found.direction(name)] if name is not None else list(found.directions.values())
    made = imported(chosen, new_name, _layers(layers), load_generator(generator) if generator else None)
    write(made, target, force=force)
    _print(made, as_json=as_json, target=target)


@app.command()
def show(  # noqa: PLR0917
    source: Source,
    generator: Annotated[
        str | None, typer.Option(help="checkpoint whose samples the sheet shows", metavar="GENERATOR")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="write a sheet of samples to this PNG", metavar="PNG")] = None,
    name: Annotated[str | None, typer.Option(help="name of one direction of the file", show_default="all")] = None,
    magnitudes: Annotated[str, typer.Option(help="columns of the sheet", metavar="M,M,…")] = "-3,-1.5,0,1.5,3",
    samples: Annotated[int, typer.Option(min=1, max=64, help="rows of the sheet")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="seed of the first row; the next rows count up")] = 0,
    truncation: Annotated[float, typer.Option(help="truncation of the samples; 1 for none", metavar="PSI")] = 1.0,
    class_: Class = None,
    sha256: Sha256 = None,
    as_json: AsJson = False,
) -> None:
    """List the directions of a file; with --sheet, draw samples of a generator along one of them."""
    from generators.directions import read_directions
    from pipeline.cli.direction_files import draw_sheet, numbers
    from pipeline.errors import CommandError

    found = read_directions(source, sha256=sha256)
    if sheet is None:
        _print([found.direction(name)] if name is not None else list(found.directions.values()), as_json=as_json)
        return
    if generator is None:
        raise CommandError("--sheet shows samples of a generator: give its checkpoint with --generator")
    direction, columns = found.direction(name), numbers(magnitudes)
    remark = draw_sheet(
        direction, generator, sheet, columns, range(seed, seed + samples), truncation=truncation, label=class_
    )
    _print([direction], as_json=as_json, sheet=sheet, remark=remark)


def _clip(folder: Path | None, hub: str | None, revision: str | None, *, download: bool) -> dict[str, object]:
    return {"folder": folder, "hub": hub, "revision": revision, "download": download}


def _source(kind: str, settings: dict[str, Any]) -> AnyDirectionSource:
    from pydantic import TypeAdapter, ValidationError

    from generators.directions import AnyDirectionSource
    from pipeline.errors import CommandError

    adapter: TypeAdapter[AnyDirectionSource] = TypeAdapter(AnyDirectionSource)
    try:
        return adapter.validate_python({"kind": kind, **settings})
    except ValidationError as error:
        wrong = error.errors()[0]
        named = [str(part) for part in wrong["loc"][1:]]
        reason = wrong["msg"].removeprefix("Value error, ")
        is_ours = wrong["type"] == "value_error"
        raise CommandError(reason if is_ours else f"{'.'.join(named)}: {reason}, got {wrong['input']!r}") from None


def _fit(
    source: AnyDirectionSource, checkpoint: str, target: Path, config: Path | None = None, *, force: bool, as_json: bool
) -> None:
    from generators import load_generator
    from pipeline.cli.direction_files import check_target, write
    from stages.base.device import process_device

    check_target(target, force=force)
    source.check()
    generator = load_generator(checkpoint, process_device())
    made = source.fit(generator, _stored(config, generator) if config else None)
    write(made, target, force=force)
    _print(made, as_json=as_json, target=target)


def _stored(config: Path, generator: Generator) -> Any:  # noqa: ANN401  # its type is in a slow module
    from pipeline.config import load_config
    from pipeline.data.stores import Stores
    from pipeline.publish.stored_codes import stored_codes

    return stored_codes(Stores.from_config(load_config(config, ())).ledger, generator.digest)


def _layers(text: str | None) -> tuple[int, int] | None:
    from pipeline.errors import CommandError

    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        raise CommandError(f"--layers are the first and the last row of w_plus, such as 0-5, got {text!r}")
    return int(first), int(last or first)


def _print(
    directions: Sequence[Direction],
    *,
    as_json: bool,
    target: Path | None = None,
    sheet: Path | None = None,
    remark: str = "",
) -> None:
    from pipeline.cli.direction_files import described, in_words

    if as_json:
        content: dict[str, Any] = {"directions": [described(direction) for direction in directions]}
        content |= {"file": str(target)} if target else {}
        content |= {"sheet": str(sheet)} if sheet else {}
        content |= {"remark": remark} if remark else {}
        console.print_json(json.dumps(content))
        return
    for direction in directions:
        console.print(Text(in_words(direction)), soft_wrap=True)
    if target:
        console.print(f"{target}: {target.stat().st_size:,} bytes", soft_wrap=True)
    if sheet:
        console.print(f"sheet: {sheet}", soft_wrap=True)
    if remark:
        console.print(Text.assemble(("warning: ", "yellow"), remark), soft_wrap=True)
