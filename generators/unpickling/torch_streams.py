"""The legacy format of torch.save: five pickles, then the numbers of every storage that they refer to."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

import torch

from generators.errors import CheckpointError
from generators.unpickling.machine import Budget, Global, Machine, Makers, View
from generators.unpickling.records import Storage, brief, bytes_of, expect

MAGIC = 0x1950A86A20F9469CFC6C  # opens every stream of the legacy torch.save
PROTOCOL = 1001

STORAGES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "torch FloatStorage": torch.float32,
        "torch HalfStorage": torch.float16,
        "torch BFloat16Storage": torch.bfloat16,
        "torch DoubleStorage": torch.float64,
        "torch LongStorage": torch.int64,
        "torch IntStorage": torch.int32,
        "torch ShortStorage": torch.int16,
        "torch CharStorage": torch.int8,
        "torch ByteStorage": torch.uint8,
        "torch BoolStorage": torch.bool,
        "torch ComplexFloatStorage": torch.complex64,
        "torch ComplexDoubleStorage": torch.complex128,
        "torch QInt8Storage": torch.qint8,
        "torch QUInt8Storage": torch.quint8,
        "torch QInt32Storage": torch.qint32,
        "torch UntypedStorage": torch.uint8,
        "torch.storage UntypedStorage": torch.uint8,
    }
)


MAX_KEY = 256
"""Maximum number of characters of the key of a storage, which is a number in all published files."""


def never(*_: object) -> NoReturn:
    """Represent what a pickle may name, but not call."""
    raise CheckpointError("calls a type, which no published generator does")


STORAGE_TYPES: Makers = MappingProxyType(dict.fromkeys(STORAGES, never))


def unread_storage(identity: object) -> str:
    """Return why a storage of an unknown type is refused on use; empty for a known type."""
    match identity:
        case ("storage", Global(refusal=refusal), *_):
            return refusal
    return ""


def storage_of(identity: object) -> tuple[str, torch.dtype, int]:
    """Return key, type and count of the whole storage that a persistent id represents.

    Raises:
        CheckpointError: it represents anything else.
    """
    match identity:
        case ("storage", Global(name=name), str(key), str(), int(count), *rest) if name in STORAGES and count >= 0:
            if rest in ([], [None]) and len(key) <= MAX_KEY:
                return key, STORAGES[name], count
    raise CheckpointError("holds a storage stream with a persistent id that is not one whole storage")


def read_stream(
    data: bytes | memoryview, budget: Budget, makers: Makers, *, passes_over: bool = False
) -> tuple[object, int]:
    """Return the content of a stream, with tensors as views of it, and its number of storages.

    Args:
        data: the whole stream.
        budget: operations left to the stream.
        makers: the function for each permitted name; the types of storages are added.
        passes_over: see `Machine`.

    Raises:
        CheckpointError: it is not such a stream, or announces more than it holds.
    """
    file, storages = View(data), dict[str, Storage]()

    def value(makers: Makers, persistent: Callable[[object], object] | None = None) -> object:
        return Machine(file, budget, makers, persistent, passes_over=passes_over and persistent is not None).run()

    def storage(identity: object) -> object:
        match identity:
            case ("module", Global() as kind, *_) if passes_over:
                return kind  # the class of a whole network; its source is not read
        if refusal := unread_storage(identity):
            raise CheckpointError(refusal)  # the size of its numbers is unknown
        key, dtype, count = storage_of(identity)
        if count * dtype.itemsize > len(data):
            raise CheckpointError(f"announces a storage of {brief(count)} numbers in a stream of {len(data)} bytes")
        found = storages.setdefault(key, Storage(dtype, count))
        if (found.dtype, found.count) != (dtype, count):
            raise CheckpointError(f"announces storage {brief(key)} twice, with other types or sizes")
        return found

    if (value({}), value({})) != (MAGIC, PROTOCOL):
        raise CheckpointError("holds a storage stream that is not the legacy torch.save's")
    if expect(dict, value({}), "the system of a storage stream").get("little_endian") is not True:
        raise CheckpointError("holds numbers that are not little-endian")
    root = value({**STORAGE_TYPES, **makers}, storage)
    listed = expect(list, value({}), "the list of storages")
    if not all(isinstance(key, str) for key in listed) or sorted(listed) != sorted(storages):
        raise CheckpointError(f"holds a storage stream that lists other storages than {_few(storages)}")
    _take_numbers(file, [storages[key] for key in listed])
    return root, len(storages)


def read_storage(budget: Budget, stream: object) -> Storage:
    """Return the single storage of a stream that is nested in a pickle."""
    root, count = read_stream(bytes_of(stream, "a storage stream"), budget, {})
    found = expect(Storage, root, "the root of a storage stream")
    if count != 1:
        raise CheckpointError(f"holds a storage stream of {count} storages instead of one")
    return found


def _take_numbers(file: View, storages: list[Storage]) -> None:
    for storage in storages:
        (count,) = struct.unpack("<q", file.read(8))
        left = len(file.data) - file.at
        if count != storage.count or left < storage.size:
            raise CheckpointError(f"announces a storage of {storage.count} numbers, then of {count}, in {left} bytes")
        storage.data = file.data[file.at : file.at + storage.size]
        file.at += storage.size


def _few(storages: Mapping[str, Storage]) -> str:
    return ", ".join(brief(key) for key in list(storages)[:5]) or "none"
