"""Files of codes as other tools exchange them: one tensor of w_plus `[N, num_ws, w_dim]`, and a table of its keys."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.errors import ArgumentError, CheckpointError
from generators.formats.weights import float32
from generators.generator import Generator
from generators.unpickling.records import StoredTensor
from generators.unpickling.torch_file import LEGACY, ZIP, load_torch_file

NPY = b"\x93NUMPY"
KEY, SHARD = "key", "shard"
READ_TODAY = "read: .npy and .pt (torch.save) of one tensor [N, num_ws, w_dim], as e4e writes its latents"


@dataclass(frozen=True, eq=False)
class CodesFile:
    """Codes of several images and their keys. A .npy stays on disk until a code is needed."""

    source: str
    w_plus: NDArray[np.generic]
    rows: Mapping[tuple[str | None, str], int]
    """By shard and key; also by None and key if only one shard has the key."""

    @classmethod
    def open(cls, codes: Path, keys: Path) -> CodesFile:
        """Return the codes in a file with the keys in another, a .csv with the columns key and, if needed, shard.

        Raises:
            CheckpointError: a file is missing, damaged, hostile or of another kind, or the two do not belong together.
        """
        w_plus = read_codes(codes)
        rows = _rows(keys)
        named = len(set(rows.values()))
        if named != len(w_plus):
            raise CheckpointError(
                f"{codes} holds {len(w_plus)} codes, and {keys} names {named}: give those of one export"
            )
        return cls(str(codes), w_plus, rows)

    def check_fits(self, generator: Generator) -> None:
        """Raise ArgumentError unless these are codes of a generator, by shape; one row stands for all."""
        rows, width = self.w_plus.shape[1:]
        if rows not in (1, generator.num_ws) or width != generator.w_dim:
            raise ArgumentError(
                f"{self.source} holds codes of {[rows, width]}, and the generator's are "
                f"{[generator.num_ws, generator.w_dim]}: give codes of this generator"
            )

    def of(self, shard: str, key: str) -> Tensor | None:
        """Return the codes of an image, `[num_ws or 1, w_dim]` float32; None if there are none."""
        row = self.rows.get((shard, key), self.rows.get((None, key)))
        return None if row is None else torch.from_numpy(np.array(self.w_plus[row], np.float32))


def read_codes(path: Path) -> NDArray[np.generic]:
    """Return the codes in a file, `[N, num_ws, w_dim]` floating; raise CheckpointError if it holds something else."""
    try:
        with path.open("rb") as file:
            opening = file.read(len(LEGACY))
        if opening.startswith(NPY):
            w_plus: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
        elif opening.startswith((ZIP, LEGACY)):
            w_plus = _of_torch(path)
        else:
            raise CheckpointError(
                f"{path} is not a file of codes, it begins with {opening[:8].hex(' ') or 'nothing'}; {READ_TODAY}"
            )
    except OSError as error:
        raise CheckpointError(f"codes {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"codes {path} are truncated or damaged: {error}") from error
    if w_plus.ndim != 3 or w_plus.dtype.kind != "f" or 0 in w_plus.shape[1:]:
        raise CheckpointError(f"{path} holds {list(w_plus.shape)} of {w_plus.dtype}; {READ_TODAY}")
    return w_plus


def write_keys(path: Path, keys: Iterable[tuple[str, str]]) -> None:
    """Write the table of keys next to a file of codes: shard and key of each row, in order."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((SHARD, KEY))
        writer.writerows(keys)


def _of_torch(path: Path) -> NDArray[np.generic]:
    try:
        content = load_torch_file(path.read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"codes {path}: {error}") from error
    if not isinstance(content, StoredTensor):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not one tensor of codes; {READ_TODAY}")
    return float32(content).numpy()


def _rows(path: Path) -> dict[tuple[str | None, str], int]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if KEY not in (table.fieldnames or ()):
                raise CheckpointError(f"{path} has no column {KEY!r}: write a line `{KEY}` above the keys, one per row")
            named = [(row.get(SHARD) or None, row[KEY]) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"keys {path} cannot be read: {error}; `invertmill export` writes them") from error
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise CheckpointError(f"{path} names {twice[0][1]!r} twice: every image has one code")
    rows = {name: number for number, name in enumerate(named)}
    count = Counter(key for _, key in named)
    return rows | {(None, key): rows[shard, key] for shard, key in named if count[key] == 1}
