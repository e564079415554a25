"""Reads the pickles that published generators come in without running code from them.

A pickle is a program for a small stack machine. The one here knows no function but those of `_published`, all of which
make inert records, so there is nothing that a file could make it call. It does not stand on Python's own unpickler,
because a small file can make that one take 32 GB (a memo index), hash a nested tuple for ever, or end the process (one
nested deeper), none of which can be caught.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

import torch

from generators.errors import CheckpointError
from generators.records import (
    Array,
    DType,
    Network,
    Storage,
    brief,
    dtype_of,
    expect,
    module_of,
    parameter_of,
    scalar_of,
    tensor_of,
)

Makers = Mapping[str, Callable[..., object]]
"""What may be found in a pickle, as `module name`, and what makes a record in its place."""

MAX_OPERATIONS = 2_000_000
"""Operations in a file, nested streams included; a generator of 1024 px with its discriminator has about 100,000."""

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # opens every stream of the legacy torch.save
_TORCH_PROTOCOL = 1001

_STORAGES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
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
    }
)


@dataclass(frozen=True, eq=False)
class _Global:
    """A name found in a pickle, standing for what it makes here."""

    name: str
    make: Callable[..., Any]


@dataclass
class _Budget:
    left: int

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"has more than {MAX_OPERATIONS:,} operations: no generator needs that many")


def load_pickle(data: bytes) -> object:
    """Return what a pickle holds, made of plain values and records.

    Args:
        data: the whole file.

    Raises:
        CheckpointError: the file is torn, names something that is never loaded, or is no pickle of a generator.
    """
    try:
        budget = _Budget(MAX_OPERATIONS)
        return _Machine(io.BytesIO(data), budget, _published(budget)).run()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile file provokes, it is the file's fault
        raise CheckpointError(f"is torn or no valid pickle ({type(error).__name__}: {str(error)[:200]})") from error


class _Machine:
    """One run of the stack machine over one pickle.

    Args:
        file: positioned at the pickle; left behind it.
        budget: shared by the pickles nested in a file.
        makers: what each name that may be found makes.
        persistent: turns a persistent id into a record; without it there must be none.
    """

    def __init__(
        self,
        file: io.BytesIO,
        budget: _Budget,
        makers: Makers,
        persistent: Callable[[object], object] | None = None,
    ) -> None:
        self.file, self.budget, self.makers, self.persistent = file, budget, makers, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """Return what the pickle leaves on the stack."""
        for operation, argument, _ in pickletools.genops(self.file):
            self.budget.spend()
            name = operation.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            elif name not in _SILENT:
                raise CheckpointError(f"uses the pickle operation {name}, which no published generator needs")
        return self.pop()

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("is no valid pickle: it takes from an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise CheckpointError("is no valid pickle: it goes back to a mark that was not set")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def tuple_to_mark(self, _: object) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, _: object) -> None:
        self.extend_list([self.pop()])

    def appends(self, _: object) -> None:
        self.extend_list(self.pop_to_mark())

    def extend_list(self, items: list[Any]) -> None:
        target = expect(list, self.pop(), "what is appended to")
        target.extend(items)
        self.stack.append(target)

    def add_items(self, _: object) -> None:
        items = self.pop_to_mark()
        target = expect(set, self.pop(), "what is added to")
        target.update(map(_key, items))
        self.stack.append(target)

    def set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self.update_last([key, value])

    def set_items(self, _: object) -> None:
        self.update_last(self.pop_to_mark())

    def update_last(self, items: list[Any]) -> None:
        target = expect(dict, self.pop(), "what items are set in")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
        self.stack.append(target)

    def put(self, index: int | None) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[len(self.memo) if index is None else index] = value

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise CheckpointError(f"is no valid pickle: it gets memo {index}, which was not put")
        self.stack.append(self.memo[index])

    def find(self, name: str) -> None:
        if name not in self.makers:
            raise CheckpointError(
                f"wants {brief(name.replace(' ', '.'))}, which is never loaded: the file is hostile, or of a kind "
                "that is not read"
            )
        self.stack.append(_Global(name, self.makers[name]))

    def find_on_stack(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        self.find(f"{expect(str, module, 'a module name')} {expect(str, name, 'a name')}")

    def reduce(self, _: object) -> None:
        arguments = expect(tuple, self.pop(), "the arguments of a call")
        made = expect(_Global, self.pop(), "what is called")
        self.stack.append(made.make(*arguments))

    def build(self, _: object) -> None:
        state, target = self.pop(), self.pop()
        if not isinstance(target, Network | DType | Array):
            raise CheckpointError(f"sets the state of a {type(target).__name__}, which has none")
        target.build(state)
        self.stack.append(target)

    def load_persistent(self, _: object) -> None:
        identity = self.pop()
        if self.persistent is None:
            raise CheckpointError("refers to data outside of it by a persistent id, which no published generator does")
        self.stack.append(self.persistent(identity))


_SILENT = frozenset({"PROTO", "FRAME", "STOP"})
_LITERALS = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MEMOIZE": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}


def _storage_stream(budget: _Budget, stream: object) -> Storage:
    """Return the one storage of a legacy torch.save stream: five pickles, a count, and the numbers."""
    data = expect(bytes, stream, "a storage stream")
    file = io.BytesIO(data)

    def value(persistent: Callable[[object], object] | None = None) -> object:
        return _Machine(file, budget, _STORAGE_TYPES if persistent else {}, persistent).run()

    if (value(), value()) != (_TORCH_MAGIC, _TORCH_PROTOCOL):
        raise CheckpointError("holds a storage stream that is not the legacy torch.save's")
    if expect(dict, value(), "the system of a storage stream").get("little_endian") is not True:
        raise CheckpointError("holds numbers that are not little-endian")
    announced = expect(_Announced, value(_announced), "the root of a storage stream")
    if value() != [announced.key]:
        raise CheckpointError(f"holds a storage stream that lists other storages than {brief(announced.key)}")
    start = file.tell() + 8
    (count,) = struct.unpack("<q", data[start - 8 : start])
    size = announced.count * announced.dtype.itemsize
    if count != announced.count or len(data) - start < size:
        raise CheckpointError(
            f"announces a storage of {brief(announced.count)} numbers, then of {count}, in {len(data) - start} bytes"
        )
    return Storage(announced.dtype, memoryview(data)[start : start + size])


@dataclass(frozen=True, eq=False)
class _Announced:
    dtype: torch.dtype
    key: str
    count: int


def _announced(identity: object) -> _Announced:
    match identity:
        case ("storage", _Global(name=name), str(key), str(), int(count), None) if name in _STORAGES and count >= 0:
            return _Announced(_STORAGES[name], key, count)
    raise CheckpointError("holds a storage stream with a persistent id that is not one whole storage")


def _never(*_: object) -> NoReturn:
    raise CheckpointError("calls a type, which no published generator does")


_STORAGE_TYPES: Makers = dict.fromkeys(_STORAGES, _never)


def _published(budget: _Budget) -> Makers:
    """Return all names of the published pickles; numpy's moved from `numpy.core` to `numpy._core`."""
    makers: dict[str, Callable[..., object]] = {
        "torch_utils.persistence _reconstruct_persistent_obj": module_of,
        "dnnlib.util EasyDict": lambda: {},
        "dnnlib.tflib.network Network": Network,
        "collections OrderedDict": lambda: {},
        "torch.storage _load_from_bytes": partial(_storage_stream, budget),
        "torch._utils _rebuild_tensor_v2": tensor_of,
        "torch._utils _rebuild_parameter": parameter_of,
        "numpy dtype": dtype_of,
        "numpy ndarray": _never,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        makers |= {f"{core} scalar": scalar_of, f"{core} _reconstruct": lambda *_: Array()}
    return makers


def _key(value: object) -> str:
    """Return a key of a dictionary: strings only, because the hash of nested tuples can take for ever."""
    return expect(str, value, "a key")
