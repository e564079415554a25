"""The parts of a pickled generator: inert records instead of every class and function that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.errors import CheckpointError

_T = TypeVar("_T")

MAX_ENCODED = 64
"""Maximum number of characters of a text that represents bytes."""


@dataclass(frozen=True, eq=False)
class Module:
    """A persistent object of NVIDIA's repositories: its class name and attributes. Its source is not kept."""

    class_name: str
    state: Mapping[str, Any]


@dataclass(eq=False)
class Network:
    """A network of NVIDIA's TensorFlow repositories, with its attributes once it is built."""

    state: Mapping[str, Any] | None = None

    def build(self, state: object) -> None:
        """Set the attributes."""
        self.state = expect(dict, state, "the state of a network")


@dataclass(eq=False)
class Ignored:
    """Something irrelevant to the weights, such as training arguments; nothing of it is kept.

    `refusal` is the reason to refuse the file if the weights depend on it after all (`expect`).
    """

    refusal: str

    def build(self, _state: object) -> None:
        """Ignore the attributes."""


class OrderedRecord(dict[Any, Any]):
    """An OrderedDict, such as a state dictionary; torch's module versions on it are not kept."""

    def build(self, _state: object) -> None:
        """Ignore the attributes."""


class NamespaceRecord(dict[Any, Any]):
    """An `argparse.Namespace`, as the arguments of trainings are: a dictionary of its attributes here."""

    def build(self, state: object) -> None:
        """Take the attributes."""
        self.update(state if isinstance(state, dict) else {})


def namespace_of(*_: object) -> NamespaceRecord:
    """Return an `argparse.Namespace` without attributes yet."""
    return NamespaceRecord()


def ordered_of(pairs: object = ()) -> OrderedRecord:
    """Return an OrderedDict; Python 2 passes its items, pairs whose names are texts, to the call."""
    made = OrderedRecord()
    for pair in expect(list, pairs, "the items of an OrderedDict") if pairs != () else ():
        name, value = expect(list, pair, "an item of an OrderedDict")
        made[expect(str, name, "a key")] = value
    return made


def default_of(*_: object) -> OrderedRecord:
    """Return a defaultdict: a dictionary here."""
    return OrderedRecord()


def size_of(*sizes: object) -> object:
    """Return a torch.Size as a tuple."""
    return sizes[0] if sizes else ()


@dataclass(eq=False)
class Storage:
    """The numbers of a tensor: their type, count, and bytes, which are a view of the file."""

    dtype: torch.dtype
    count: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    """Empty until a stream that stores its numbers at its end has been read to there."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * self.dtype.itemsize

    @property
    def address(self) -> int:
        """Address of the first byte in memory."""
        return int(np.frombuffer(self.data, np.uint8).ctypes.data) if self.data else 0


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file; checked to lie inside its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.storage.dtype

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self) -> Tensor:
        """Return a copy that owns its memory."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        size = self.dtype.itemsize
        steps = [step * size for step in self.stride]
        numbers = np.ndarray(self.shape, f"<i{size}", self.storage.data, self.offset * size, steps)  # only moves bytes
        return torch.from_numpy(numbers.copy(order="C")).view(self.dtype)

    def permuted(self, *order: int) -> StoredTensor:
        """Return the same numbers with permuted dimensions."""
        shape, stride = zip(*((self.shape[i], self.stride[i]) for i in order), strict=True)
        return replace(self, shape=shape, stride=stride)

    def flipped(self, *dims: int) -> StoredTensor:
        """Return the same numbers, reversed along some dimensions."""
        if 0 in self.shape:
            return self
        stride = tuple(-step if i in dims else step for i, step in enumerate(self.stride))
        ends = sum((self.shape[i] - 1) * self.stride[i] for i in dims)
        return replace(self, offset=self.offset + ends, stride=stride)

    def without(self, *dims: int) -> StoredTensor:
        """Return the same numbers without some dimensions of size 1."""
        if any(i >= len(self.shape) or self.shape[i] != 1 for i in dims):
            raise CheckpointError(f"holds a tensor of {list(self.shape)} where dimensions {list(dims)} must be 1")
        kept = [i for i in range(len(self.shape)) if i not in dims]
        return replace(self, shape=tuple(self.shape[i] for i in kept), stride=tuple(self.stride[i] for i in kept))


@dataclass(eq=False)
class DType:
    """The type of numpy numbers."""

    dtype: np.dtype[Any]
    refusal: str = ""

    def build(self, state: object) -> None:
        """Check `(version, byte order, ...)`: the order must be little-endian, the default."""
        order = expect(str, expect(tuple, state, "the state of a numpy dtype")[1], "the byte order of numpy numbers")
        if order not in ("<", "|", "="):
            self.refusal = f"holds numpy numbers of byte order {brief(order)}: only little-endian is read"


@dataclass(eq=False)
class Array:
    """A numpy array, read-only, once it is built: a view of the file."""

    value: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    refusal: str = ""

    def build(self, state: object) -> None:
        """Take `(version, shape, dtype, is_fortran, bytes)`; only arrays of plain numbers are kept."""
        _, announced, dtype, is_fortran, content = expect(tuple, state, "the state of a numpy array")
        self.refusal = refusal_of(dtype) or refusal_of(content)
        if self.refusal:
            return
        shape, data = sizes_of(announced), bytes_of(content, "the bytes of a numpy array")
        kind = expect(DType, dtype, "the dtype of a numpy array").dtype
        if math.prod(shape) * kind.itemsize != len(data):
            raise CheckpointError(f"announces an array of {brief(shape)} {kind.name}, but holds {len(data)} bytes")
        self.data = data
        self.value = np.frombuffer(data, kind).reshape(shape, order="F" if is_fortran else "C")


Buildable = Network | DType | Array | Ignored | OrderedRecord | NamespaceRecord
"""A record that takes a state."""


def stored_array(array: Array) -> StoredTensor:
    """Return a numpy array of floating-point numbers as a tensor that is still in its file."""
    value = array.value
    dtype = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}.get(value.dtype.str[1:])
    if dtype is None:
        raise CheckpointError(f"holds an array of {value.dtype}, not of floating-point numbers")
    stride = tuple(step // value.itemsize for step in value.strides)
    return StoredTensor(Storage(dtype, value.size, array.data), 0, value.shape, stride)


def module_of(meta: object) -> Module:
    """Return the module that `torch_utils.persistence` describes; its embedded source is ignored."""
    record = expect(dict, meta, "a persistent object")
    state = record.get("state")
    name = expect(str, record.get("class_name"), "the class name of a persistent object")
    return Module(name, {} if state is None else expect(dict, state, "the state of a persistent object"))


def tensor_of(storage: object, offset: object, shape: object, stride: object, *_rest: object) -> StoredTensor:
    """Return a tensor for torch's arguments; hooks and metadata are ignored."""
    numbers = expect(Storage, storage, "the storage of a tensor")
    sizes, strides = sizes_of(shape), sizes_of(stride)
    (first,) = sizes_of((offset,))
    if len(sizes) != len(strides):
        raise CheckpointError(f"holds a tensor of {len(sizes)} sizes and {len(strides)} strides")
    if first + _span(sizes, strides) > numbers.count or math.prod(sizes) > numbers.count:
        raise CheckpointError(
            f"announces a tensor of {brief(sizes)}, strides {brief(strides)}, from number {brief(first)} of a "
            f"storage of {numbers.count}"
        )
    return StoredTensor(numbers, first, sizes, strides)


def parameter_of(data: object, *_rest: object) -> StoredTensor:
    """Return the tensor of a parameter; hooks and attributes are ignored."""
    return expect(StoredTensor, data, "the data of a parameter")


def named_tensor(name: object, value: object) -> StoredTensor:
    """Return the tensor of a state dictionary; raise CheckpointError if it is not one, or its name is not text."""
    if refusal := refusal_of(value):
        raise CheckpointError(f"{refusal}; it represents {brief(name)}")
    if not isinstance(name, str) or not isinstance(value, StoredTensor):
        raise CheckpointError(f"holds a {type(value).__name__} for {brief(name)}, not a tensor")
    return value


def dtype_of(name: object, *_rest: object) -> DType | Ignored:
    """Return the type of a name such as `f4`; objects, strings and structures have no type here."""
    text = expect(str, name, "the name of a numpy dtype")
    if text not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        return Ignored(f"holds numpy numbers of type {brief(text)}: only plain numbers are read")
    return DType(np.dtype(text).newbyteorder("<"))


def scalar_of(dtype: object, data: object) -> float | int | bool:
    """Return a number for the type and the bytes of a numpy scalar."""
    kind = expect(DType, dtype, "the dtype of a numpy scalar").dtype
    value: float | int | bool = np.frombuffer(bytes_of(data, "a numpy scalar"), kind, count=1)[0].item()
    return value


def expect(kind: type[_T], value: object, what: str) -> _T:
    """Return a value of the given kind.

    Raises:
        CheckpointError: it is of another kind, or represents something that is never loaded.
    """
    if refusal := refusal_of(value):
        raise CheckpointError(refusal)
    if not isinstance(value, kind):
        raise CheckpointError(f"is not as published: {what} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def refusal_of(value: object) -> str:
    """Return the refusal of a file whose weights depend on a value; empty for a usable value."""
    refusal: str = getattr(value, "refusal", "")
    return refusal


def latin_bytes_of(text: object, encoding: object) -> bytes | Ignored:
    """Return bytes pickled as Latin-1 text: those of numpy scalars, which are short.

    Longer ones are not encoded, because a pickle can have one text encoded many times.
    """
    encoded = expect(str, text, "encoded text")
    if encoding not in ("latin1", "latin-1") or len(encoded) > MAX_ENCODED:
        return Ignored(f"encodes a text of {len(encoded)} characters as {brief(encoding)}: only short Latin-1 is read")
    return encoded.encode("latin-1")


def bytes_of(value: object, what: str) -> memoryview:
    """Return the bytes of a pickle; a view if they are long."""
    return value if isinstance(value, memoryview) else memoryview(expect(bytes, value, what))


def sizes_of(value: object) -> tuple[int, ...]:
    """Return a shape, or strides, as a tuple of numbers from 0."""
    sizes = expect(tuple, value, "a shape")
    if len(sizes) > 8 or not all(type(size) is int and 0 <= size < 2**40 for size in sizes):
        raise CheckpointError("holds a shape that is not of at most 8 numbers from 0")
    return sizes


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return the number of elements between the first and last of a strided tensor, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def brief(value: object) -> str:
    """Return a value for a message, shortened if long; containers other than shapes show their type only."""
    if isinstance(value, str):
        return ascii(value[:80])
    if isinstance(value, int | float | None):
        return str(value) if not isinstance(value, int) or value.bit_length() <= 64 else "a number beyond 64 bits"
    if isinstance(value, tuple) and len(value) <= 8 and all(type(size) is int for size in value):
        return f"[{', '.join(map(brief, value))}]"
    return f"a {type(value).__name__}"
