"""Work on directions outside a run: describe, import, write and draw them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from generators import load_generator
from generators.directions import Direction, save_directions
from generators.directions.direction import Layers, in_layers, of_codes
from generators.directions.sampling import seeded_w
from generators.generator import Generator
from infra.files import put
from pipeline.errors import CommandError
from stages.base.device import process_device
from stages.maps.region import to_uint8

TILE_PX = 192
HEADER_PX = 20
MAX_COLUMNS = 33


def described(direction: Direction) -> dict[str, Any]:
    """Return a direction with its provenance, ready for JSON."""
    provenance = direction.provenance.model_dump(mode="json")
    return {"name": direction.name, "shape": list(direction.delta.shape), **provenance}


def in_words(direction: Direction) -> str:
    """Return one line on a direction."""
    about = direction.provenance
    parts = [f"{direction.name}: {about.kind}", " × ".join(map(str, direction.delta.shape)), f"unit: {about.unit}"]
    if about.layers is not None:
        parts.append(f"layers {about.layers[0]}-{about.layers[1]}")
    parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in about.figures.items()]
    parts += [f"of {about.source}"] if about.source else []
    parts += [f"generator {about.generator_sha256[:16]}"] if about.generator_sha256 else []
    return ", ".join(parts)


def imported(
    directions: Sequence[Direction], new_name: str | None, layers: Layers | None, generator: Generator | None
) -> list[Direction]:
    """Return published directions as they will be written: renamed, restricted to layers, checked against a generator.

    Raises:
        CommandError: several would get one name, or layers are chosen without a generator.
        DirectionError: one does not fit the generator.
    """
    if new_name is not None and len(directions) != 1:
        raise CommandError(f"--as names one direction, and the file holds {len(directions)}: choose one with --name")
    if layers is not None and generator is None and any(len(direction.delta) == 1 for direction in directions):
        raise CommandError("--layers needs the number of rows of w_plus: give the generator with --generator")
    made = []
    for direction in directions:
        provenance, delta = direction.provenance, direction.delta
        if generator is not None:
            delta = of_codes(delta, generator, direction.name)
            provenance = provenance.model_copy(update={"generator_sha256": generator.digest})
        if layers is not None:
            delta = in_layers(delta, layers, generator.num_ws if generator else len(delta), direction.name)
            provenance = provenance.model_copy(update={"layers": layers})
        made.append(replace(direction, name=new_name or direction.name, delta=delta, provenance=provenance))
    return made


def check_target(target: Path, *, force: bool) -> None:
    """Raise CommandError if a file of directions cannot be made under this name."""
    if target.suffix != ".safetensors":
        raise CommandError(f"{target} must end in .safetensors, the format that is written")
    if target.exists() and not force:
        raise CommandError(f"{target} exists already; choose another name, or replace it with --force")


def write(directions: Sequence[Direction], target: Path, *, force: bool) -> None:
    """Write directions to a file, whole or not at all.

    Raises:
        CommandError: the file exists, or cannot be written.
    """
    check_target(target, force=force)
    try:
        save_directions(directions, target)
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror or error}; choose another place") from error


def numbers(text: str) -> tuple[float, ...]:
    """Return the magnitudes of a text such as `-3,0,3`.

    Raises:
        CommandError: one is not a finite number, or there are too many.
    """
    try:
        magnitudes = tuple(float(part) for part in text.split(","))
    except ValueError:
        magnitudes = ()
    if not 0 < len(magnitudes) <= MAX_COLUMNS or not all(map(math.isfinite, magnitudes)):
        raise CommandError(f"--magnitudes are 1 to {MAX_COLUMNS} numbers such as -3,0,3, got {text[:100]!r}")
    return magnitudes


@torch.no_grad()
def draw_sheet(
    direction: Direction,
    checkpoint: str,
    path: Path,
    magnitudes: Sequence[float],
    seeds: Sequence[int],
    *,
    truncation: float = 1.0,
    label: int | None = None,
) -> str:
    """Write a PNG of a generator's samples along a direction: a row per sample, a column per magnitude.

    Args:
        direction: added to w, times each magnitude.
        checkpoint: path or address of the generator.
        path: the PNG to write; an existing one is replaced.
        magnitudes: of the columns, written above them.
        seeds: of the rows (`generators.directions.sampling.seeded_w`).
        truncation: psi of the samples.
        label: class of the samples of a conditional generator; drawn by default.

    Returns:
        a remark if the direction was made for another generator, else nothing.

    Raises:
        DirectionError: the direction does not fit the generator; before any image is made.
        CommandError: the file cannot be written.
    """
    device = process_device()
    generator = load_generator(checkpoint, device)
    delta = of_codes(direction.delta, generator, direction.name).to(device)
    side = min(generator.resolution, TILE_PX)
    sheet = Image.new("RGB", (len(magnitudes) * side, HEADER_PX + len(seeds) * side), "white")
    pen = ImageDraw.Draw(sheet)
    for column, magnitude in enumerate(magnitudes):
        pen.text(((column + 0.5) * side, HEADER_PX / 2), f"{magnitude:g}", "black", anchor="mm")
    w_plus_SNw = torch.cat(list(seeded_w(generator, seeds, label, truncation))).to(device)
    for row, w_plus_Nw in enumerate(w_plus_SNw):
        for column, magnitude in enumerate(magnitudes):
            image_13RR = generator.synthesize(w_plus_Nw[None] + magnitude * delta)
            tile = Image.fromarray(to_uint8(image_13RR.cpu())[0]).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * side, HEADER_PX + row * side))
    sink = io.BytesIO()
    sheet.save(sink, "png")
    try:
        put(path, sink.getvalue())
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    made_for = direction.provenance.generator_sha256
    if not made_for or made_for == generator.digest:
        return ""
    return (
        f"direction {direction.name!r} was made for the generator of SHA-256 {made_for[:16]}…, and this one has "
        f"{generator.digest[:16]}…: unless this is a converted copy, it may change anything"
    )
