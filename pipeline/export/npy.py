"""`.npy`: w_plus of all images as one array `[N, num_ws, w_dim]` float32, with a table of their keys next to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from generators.codes import write_keys
from infra.files import partial_file, publish, staged
from pipeline.export.format import Format
from pipeline.export.published import PublishedCodes

KEYS = ".csv"


def write_npy(codes: PublishedCodes, target: Path) -> None:
    """Write the array, image by image; memory holds one unit."""
    array = open_memmap(target, "w+", np.float32, (codes.images, *codes.shape))
    for number, image in enumerate(codes):
        array[number] = image.w_plus
    array.flush()


def write_table(codes: PublishedCodes, target: Path) -> Path:
    """Write shard and key of each row next to a file of codes; return its path."""
    table = target.with_suffix(KEYS)
    with staged(table) as partial:
        write_keys(partial, ((image.shard, image.key) for image in codes))
    return table


def _write(codes: PublishedCodes, target: Path) -> str:
    with partial_file(target) as partial:
        write_npy(codes, partial)
        table = write_table(codes, target)
        publish(partial, target)
    return f"w_plus of {codes.images} images {[codes.images, *codes.shape]} in {target}, their keys in {table}"


FORMAT = Format("latents.npy", _write, "StyleCLIP, GANSpace and numpy")
