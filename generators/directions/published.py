"""Direction files as published by others: `.npy` arrays, InterFaceGAN's and GANSpace's torch files.

No code from a file is run: arrays are read without pickles, torch files by `generators.unpickling`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
import torch

from generators.directions.direction import STANDARD_DEVIATION, Direction, Provenance, checked_delta
from generators.errors import DirectionError
from generators.unpickling.records import Array, StoredTensor, expect, refusal_of, stored_array
from generators.unpickling.torch_file import load_torch_file

NPY = b"\x93NUMPY"
MAX_HEADER = 10_000
MAX_DIRECTIONS = 10_000


def read_npy(data: bytes, name: str) -> dict[str, Direction]:
    """Return the one direction of a numpy file: `[w_dim]`, `[num_ws, w_dim]` or, as SAM's, `[1, num_ws, w_dim]`.

    Raises:
        DirectionError: it holds anything but one array of floating-point numbers, or announces more than it holds.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DirectionError(f"is a numpy file of version {version}: versions 1.0 and 2.0 are read")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream, max_header_size=MAX_HEADER)
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise DirectionError(f"is a numpy file of {dtype}: float16, float32 and float64 are read")
    numbers = memoryview(data)[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise DirectionError(f"announces {list(shape)} numbers of {dtype}, but holds {len(numbers)} bytes of them")
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if is_fortran else "C")
    tensor = torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
    return {name: Direction(name, checked_delta(tensor, name), Provenance(kind="npy"))}


def read_torch(data: bytes, name: str) -> dict[str, Direction]:
    """Return the directions of a torch file.

    A tensor is one direction (InterFaceGAN). A dictionary with `comp` and `std` is GANSpace's: its components, named by
    their numbers from 0, each times its standard deviation. Any other dictionary of tensors holds one for each name.

    Raises:
        CheckpointError: it is hostile or truncated, or holds something else.
    """
    content = load_torch_file(data)
    if isinstance(content, StoredTensor | Array):
        delta = checked_delta(_tensor(content, name), name)
        return {name: Direction(name, delta, Provenance(kind="interfacegan"))}
    if not isinstance(content, Mapping):
        raise DirectionError(f"holds a {type(content).__name__}: a tensor or a dictionary of tensors is read")
    if {"comp", "std"} <= content.keys():
        return _ganspace(content)
    if not content or len(content) > MAX_DIRECTIONS:
        raise DirectionError(f"holds a dictionary of {len(content)} directions: 1 to {MAX_DIRECTIONS:,} are read")
    tensors = {expect(str, key, "the name of a direction"): _tensor(value, key) for key, value in content.items()}
    return {
        key: Direction(key, checked_delta(tensor, key), Provenance(kind="torch")) for key, tensor in tensors.items()
    }


def _ganspace(content: Mapping[object, object]) -> dict[str, Direction]:
    """Return GANSpace's components in units of the standard deviation of w along each, as in its editor."""
    comp, std_K = _tensor(content["comp"], "comp"), _tensor(content["std"], "std").float().reshape(-1)
    count = len(std_K)
    if comp.ndim not in (2, 3) or len(comp) != count or not 0 < count <= MAX_DIRECTIONS:
        raise DirectionError(
            f"is a GANSpace file with comp {list(comp.shape)} and std [{count}]: [K, 1, w_dim] and [K] are read"
        )
    if not bool((std_K >= 0).all()):
        raise DirectionError("is a GANSpace file with a standard deviation that is negative or NaN")
    provenance = Provenance(kind="ganspace", unit=STANDARD_DEVIATION)
    found = {}
    for i in range(count):
        delta = checked_delta(comp[i].float() * std_K[i], str(i))
        figures = {"stdev": float(std_K[i])}
        found[str(i)] = Direction(str(i), delta, provenance.model_copy(update={"figures": figures}))
    return found


def _tensor(value: object, name: object) -> torch.Tensor:
    if refusal := refusal_of(value):
        raise DirectionError(f"{refusal}; it stands for {str(name)[:80]!r}")
    if isinstance(value, Array):
        value = stored_array(value)
    if not isinstance(value, StoredTensor):
        raise DirectionError(f"holds a {type(value).__name__} for {str(name)[:80]!r}, not a tensor")
    return value.tensor()
