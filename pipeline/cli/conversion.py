"""Work on a checkpoint outside a run: describe it, draw samples, convert it to safetensors."""

from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from generators import load_generator
from generators.checkpoints import save_generator
from generators.families.registry import BY_NAME
from generators.generator import Generator
from infra.fetching.uri import shown
from infra.files import flush, partial_file, publish, put
from pipeline.errors import CommandError
from stages.base.device import process_device
from stages.maps.region import to_uint8

SAMPLES = 16
TILE_PX = 256

DTYPES = {"float32": torch.float32, "float16": torch.float16}


def describe(generator: Generator, source: str) -> dict[str, Any]:
    """Return the description of a generator, ready for JSON."""
    shapes = {generator.spaces[0]: (generator.num_ws, generator.w_dim), **generator.feature_shapes}
    return {
        "checkpoint": shown(source),
        "format": generator.format,
        "family": generator.family,
        "resolution_px": generator.resolution,
        "z_dim": generator.z_dim,
        "label_dim": generator.label_dim,
        "spaces": {space: list(shapes[space]) for space in generator.spaces},
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "sha256": generator.digest,
        "about": generator.about,
        **({"remark": generator.remark} if generator.remark else {}),
    }


def write_samples(source: str, path: Path, seed: int, truncation: float, sha256: str | None = None) -> None:
    """Write a sheet of random images as PNG, row by row; a conditional generator gets a random class per image.

    Args:
        source: path or address of the checkpoint.
        path: the PNG to write; an existing one is replaced.
        seed: seed of the draws.
        truncation: psi of a StyleGAN2; selects the batch-norm statistics of a BigGAN-deep and scales its z.
        sha256: expected SHA-256 of the checkpoint.
    """
    device = process_device()
    generator = load_generator(source, device, sha256=sha256)
    if truncation != 1.0 and "truncation" in BY_NAME[generator.family].options.model_fields:
        generator = load_generator(source, device, truncation, sha256=generator.digest)
    side = min(generator.resolution, TILE_PX)
    columns = math.ceil(math.sqrt(SAMPLES))
    sheet = Image.new("RGB", (columns * side, math.ceil(SAMPLES / columns) * side))
    for i, image_13RR in enumerate(_samples(generator, seed, truncation)):
        tile = Image.fromarray(to_uint8(image_13RR)[0]).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * side, i // columns * side))
    sink = io.BytesIO()
    sheet.save(sink, "png")
    try:
        put(path, sink.getvalue())
    except OSError as error:
        raise _cannot_write(path, error) from error


@torch.no_grad()
def _samples(generator: Generator, seed: int, truncation: float) -> list[Tensor]:
    """Return images `[1, 3, R, R]`, one by one, since large ones do not fit into memory together."""
    random = torch.Generator().manual_seed(seed)
    z_Sz = BY_NAME[generator.family].sample_z(generator, SAMPLES, random, truncation)
    label_SL = None
    if generator.label_dim:
        classes_S = torch.randint(generator.label_dim, (SAMPLES,), generator=random)
        label_SL = torch.nn.functional.one_hot(classes_S, generator.label_dim).float()
    device = next(generator.parameters()).device
    images = []
    for i in range(SAMPLES):
        label = None if label_SL is None else label_SL[i : i + 1].to(device)
        w = generator.map(z_Sz[i : i + 1].to(device), label, truncation)
        images.append(generator.synthesize(w).cpu())
    return images


def convert(source: str, target: Path, dtype: str, *, force: bool, sha256: str | None = None) -> Generator:
    """Write a checkpoint as the project's own safetensors, and return the generator of the new file.

    The file appears whole or not at all; it is read back and compared first.

    Args:
        source: path or address of the checkpoint.
        target: the file to write.
        dtype: type of the stored weights, one of `DTYPES`.
        force: replace an existing file.
        sha256: expected SHA-256 of the checkpoint.

    Raises:
        CheckpointError: the source cannot be read.
        CommandError: the target exists or cannot be written, or a weight does not fit into float16.
    """
    if target.suffix != ".safetensors":
        raise CommandError(f"{target} must end in .safetensors: rename the target")
    if not force:
        _check_free(target)
    generator = load_generator(source, sha256=sha256)
    _check_range(generator, DTYPES[dtype])
    about = generator.about or f"{generator.format} {Path(shown(source)).name}, SHA-256 {generator.digest[:16]}"
    about += f"; {generator.remark}" if generator.remark else ""
    half = ", half precision" if dtype == "float16" and not generator.about.endswith(", half precision") else ""
    try:
        with partial_file(target) as partial:
            save_generator(generator, partial, about=about + half, dtype=DTYPES[dtype])
            written = load_generator(partial)
            _check_same(generator, written, DTYPES[dtype])
            _publish(partial, target, force=force)
    except OSError as error:
        raise _cannot_write(target, error) from error
    return written


def _cannot_write(path: Path, error: OSError) -> CommandError:
    return CommandError(f"cannot write {path}: {error.strerror or error}; choose another place")


def _check_range(generator: Generator, dtype: torch.dtype) -> None:
    for name, tensor in generator.state_dict().items():
        if not bool(tensor.to(dtype).isfinite().all()):
            raise CommandError(f"{name} does not fit into {dtype}: its largest value is {float(tensor.abs().max()):g}")


def _check_same(generator: Generator, written: Generator, dtype: torch.dtype) -> None:
    found = written.state_dict()
    for name, tensor in generator.state_dict().items():
        if not torch.equal(tensor.to(dtype).float(), found[name]):
            raise CommandError(f"{name} was not written correctly: the disk may be damaged; choose another place")


def _publish(partial: Path, target: Path, *, force: bool) -> None:
    if not force:
        flush(partial)
        with contextlib.suppress(OSError):  # a filesystem without links
            os.link(partial, target)  # unlike a rename, it does not replace a file that has appeared meanwhile
            return
        _check_free(target)
    publish(partial, target)


def _check_free(target: Path) -> None:
    if target.exists():
        raise CommandError(f"{target} exists already; choose another name, or replace it with --force")
