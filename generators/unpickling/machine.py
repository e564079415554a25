"""A pickle's stack machine that knows only the functions it is given, all of which make inert records.

A pickle is a program for a small stack machine. This one does not use Python's own unpickler, nor that of
`torch.load(weights_only=True)`: a small file can make those take 32 GB (a memo index), hash a nested tuple
forever, or end the process (one nested deeper), and none of these can be caught.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import IO, Any, cast

from generators.errors import CheckpointError
from generators.unpickling.hostile_names import is_hostile
from generators.unpickling.records import (
    Array,
    Buildable,
    DType,
    Ignored,
    Module,
    StoredTensor,
    brief,
    expect,
    refusal_of,
)

Makers = Mapping[str, Callable[..., object]]
"""Names that may occur in a pickle, as `module name`, and what makes a record for each."""

MAX_KEY = 8
"""Parts of a tuple or a frozen set used as a key."""
MAX_KEY_CHARACTERS = 4096
MAX_KEY_BITS = 1024
MAX_NAME = 1024
"""Characters in the name of a module and of an attribute."""

_COPIED_BYTES = 1024
"""Reads of at most this many bytes are copied out of the file; longer ones are views of it."""  # prose: quoted


@dataclass(frozen=True, eq=False)
class Global:
    """A name found in a pickle, and the function that makes its record."""

    name: str
    make: Callable[..., Any]
    refusal: str = ""
    """The refusal of a file whose weights depend on this name; empty for a known name."""


class Budget:
    """Number of operations left to a file, including its nested pickles."""

    def __init__(self, operations: int) -> None:
        self.left = self.whole = operations

    def spend(self, operations: int = 1) -> None:
        """Take some; raise CheckpointError if fewer are left."""
        self.left -= operations
        if self.left < 0:
            raise CheckpointError(f"has more than {self.whole:,} operations: no generator needs more")


class View:
    """A file of bytes in memory; long reads are not copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data, self.at = memoryview(data), 0

    def tell(self) -> int:
        """Return the position."""
        return self.at

    def read(self, count: int) -> bytes | memoryview:
        """Return the next bytes, fewer at the end."""
        found = self.data[self.at : self.at + count]
        self.at += len(found)
        return bytes(found) if len(found) <= _COPIED_BYTES else found

    def readline(self) -> bytes:
        """Return the bytes up to and including a newline; at most 1,024, which is longer than any name."""
        found = bytes(self.data[self.at : self.at + _COPIED_BYTES])
        line = found[: found.find(b"\n") + 1] or found
        self.at += len(line)
        return line


class Machine:
    """One run of the stack machine over one pickle.

    Args:
        file: positioned at the pickle; positioned after it at the end.
        budget: shared by the nested pickles of a file.
        makers: the function for each permitted name.
        persistent: turns a persistent id into a record; without it, ids are refused.
        passes_over: whether an unknown name becomes nothing (`Ignored`), as training data stored
            with a generator should; otherwise, and always if the name could run a program, the file is refused.
    """

    def __init__(
        self,
        file: View,
        budget: Budget,
        makers: Makers,
        persistent: Callable[[object], object] | None = None,
        *,
        passes_over: bool = False,
    ) -> None:
        self.file, self.budget, self.makers, self.persistent = file, budget, makers, persistent
        self.passes_over = passes_over
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """Return the value that the pickle leaves on the stack."""
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], self.file)):
            self.budget.spend(1 + _copied(argument) // _COPIED_BYTES)
            name = operation.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            elif name not in _SILENT:
                raise CheckpointError(f"uses the pickle operation {name}, which no published generator needs")
        return self._pop()

    def _pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("is not a valid pickle: it takes from an empty stack")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise CheckpointError("is not a valid pickle: it goes back to a mark that was not set")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def _tuple_to_mark(self, _: object) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self._pop() for _ in range(count)])))

    def _append(self, _: object) -> None:
        self._extend_list([self._pop()])

    def _appends(self, _: object) -> None:
        self._extend_list(self._pop_to_mark())

    def _extend_list(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, Ignored):
            expect(list, target, "what is appended to").extend(items)
        self.stack.append(target)

    def _add_items(self, _: object) -> None:
        items, target = self._pop_to_mark(), self._pop()
        if not isinstance(target, Ignored):
            expect(set, target, "what is added to").update(map(_key, items))
        self.stack.append(target)

    def _frozen_set(self, _: object) -> None:
        self.stack.append(frozenset(map(_key, self._pop_to_mark())))

    def _set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._update_last([key, value])

    def _set_items(self, _: object) -> None:
        self._update_last(self._pop_to_mark())

    def _update_last(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, Ignored):
            dictionary = expect(dict, target, "what items are set in")
            for key, value in zip(items[::2], items[1::2], strict=True):
                dictionary[_key(key)] = value
        self.stack.append(target)

    def _drop(self, _: object) -> None:
        self._pop()

    def _drop_to_mark(self, _: object) -> None:
        self._pop_to_mark()

    def _put(self, index: int | None) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[len(self.memo) if index is None else index] = value

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise CheckpointError(f"is not a valid pickle: it gets memo {index}, which was not put")
        self.stack.append(self.memo[index])

    def _find(self, name: str) -> None:
        if name in self.makers:
            self.stack.append(Global(name, self.makers[name]))
            return
        refusal = f"wants {brief(name.replace(' ', '.'))}, which is never loaded"
        if is_hostile(name):
            raise CheckpointError(f"{refusal}, because it can run programs: the file is hostile; nothing of it was run")
        refusal += ": code and classes are never taken from a file"
        if not self.passes_over:
            raise CheckpointError(refusal)
        self.stack.append(Global(name, lambda *_: Ignored(refusal), refusal))

    def _find_on_stack(self, _: object) -> None:
        name, module = expect(str, self._pop(), "a name"), expect(str, self._pop(), "a module name")
        if max(len(name), len(module)) > MAX_NAME:
            raise CheckpointError(f"wants a name of more than {MAX_NAME:,} characters, {brief(name)}")
        self._find(f"{module} {name}")

    def _reduce(self, _: object) -> None:
        arguments, made = expect(tuple, self._pop(), "the arguments of a call"), self._pop()
        if refusal := refusal_of(made):
            self.stack.append(Ignored(refusal))
            return
        # A call costs as much as it reads: one pickled list can be the argument of any number of calls.
        self.budget.spend(len(arguments))
        self.budget.spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict)))
        refusals = filter(None, map(refusal_of, arguments))  # a result of something unknown is unknown
        if refusal := next(refusals, ""):
            self.stack.append(Ignored(refusal))
        else:
            self.stack.append(expect(Global, made, "what is called").make(*arguments))

    def _reduce_with_names(self, _: object) -> None:
        expect(dict, self._pop(), "the named arguments of a call")
        expect(tuple, self._pop(), "the arguments of a call")
        made = self._pop()
        if not refusal_of(made):
            raise CheckpointError("uses the pickle operation NEWOBJ_EX, which no published generator needs")
        self.stack.append(Ignored(refusal_of(made)))

    def _build(self, _: object) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, Buildable):
            raise CheckpointError(f"sets the state of a {type(target).__name__}, which has none")
        target.build(state)
        self.stack.append(target)

    def _load_persistent(self, _: object) -> None:
        identity = self._pop()
        if self.persistent is None:
            raise CheckpointError("refers to data outside of it by a persistent id, which no published generator does")
        self.stack.append(self.persistent(identity))


_PLAIN = (float, complex, Global, Ignored, DType, Array, StoredTensor, Module, NoneType)
"""Types of keys and of items of sets whose hash is cheap, or that of an object."""


def _key(value: object) -> object:
    """Return a key of a dictionary or an item of a set; a unique object instead of one that is long or nested.

    A pickle can use one key any number of times, and the hash of a long number, or the comparison of two long texts or
    nested sets, takes time on every use; the hash of nested tuples can end the process.
    """
    if _is_short(value):
        return value
    if isinstance(value, tuple | frozenset):
        return value if len(value) <= MAX_KEY and all(map(_is_short, value)) else Ignored(_LONG_KEY)
    if isinstance(value, str | bytes | int):
        return Ignored(_LONG_KEY)
    return expect(str, value, "a key")


_LONG_KEY = "uses a key that is too long or too deep, which no published generator does"


def _is_short(value: object) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= MAX_KEY_CHARACTERS
    if isinstance(value, int):
        return value.bit_length() <= MAX_KEY_BITS
    return isinstance(value, _PLAIN)


def _copied(argument: object) -> int:
    """Return roughly how many bytes of the file were copied for an operation's argument."""
    if isinstance(argument, str | bytearray):
        return len(argument)
    return argument.bit_length() // 8 if isinstance(argument, int) else 0


_SILENT = frozenset({"PROTO", "FRAME", "STOP"})
_LITERALS = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("BINSTRING", "SHORT_BINSTRING"),  # of Python 2
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
_OPERATIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "TUPLE": Machine._tuple_to_mark,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._add_items,
    "FROZENSET": Machine._frozen_set,
    "POP": Machine._drop,
    "POP_MARK": Machine._drop_to_mark,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "MEMOIZE": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "GLOBAL": Machine._find,
    "STACK_GLOBAL": Machine._find_on_stack,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._reduce_with_names,
    "BUILD": Machine._build,
    "BINPERSID": Machine._load_persistent,
}
