"""A pickle's stack machine that knows no function but those it is given, all of which make inert records.

A pickle is a program for a small stack machine. This one does not stand on Python's own unpickler, nor on that of
`torch.load(weights_only=True)`, because a small file can make those take 32 GB (a memo index), hash a nested tuple for
ever, or end the process (one nested deeper), none of which can be caught.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

from generators.errors import CheckpointError
from generators.records import Buildable, brief, expect

Makers = Mapping[str, Callable[..., object]]
"""What may be found in a pickle, as `module name`, and what makes a record in its place."""

_COPIED_BYTES = 1024
"""Reads of at most this many bytes are copied out of the file; longer ones are views of it."""


@dataclass(frozen=True, eq=False)
class Global:
    """A name found in a pickle, standing for what it makes here."""

    name: str
    make: Callable[..., Any]


class Budget:
    """How many operations a file may still take, the pickles nested in it included."""

    def __init__(self, operations: int) -> None:
        self.left = self.whole = operations

    def spend(self) -> None:
        """Take one; raises CheckpointError where none is left."""
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"has more than {self.whole:,} operations: no generator needs that many")


class View:
    """A file of bytes that lie in memory; what is long is read without a copy."""

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
        """Return the bytes up to a newline and with it; at most 1,024, which is longer than any name."""
        found = bytes(self.data[self.at : self.at + _COPIED_BYTES])
        line = found[: found.find(b"\n") + 1] or found
        self.at += len(line)
        return line


class Machine:
    """One run of the stack machine over one pickle.

    Args:
        file: positioned at the pickle; left behind it.
        budget: shared by the pickles nested in a file.
        makers: what each name that may be found makes.
        persistent: turns a persistent id into a record; without it there must be none.
        keys: types of the keys of a dictionary and of the items of a set: never tuples, because the hash of nested
            ones can take for ever.
    """

    def __init__(
        self,
        file: View,
        budget: Budget,
        makers: Makers,
        persistent: Callable[[object], object] | None = None,
        keys: tuple[type, ...] = (str,),
    ) -> None:
        self.file, self.budget, self.makers, self.persistent, self.keys = file, budget, makers, persistent, keys
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        """Return what the pickle leaves on the stack."""
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], self.file)):
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
        return self._pop()

    def _pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("is no valid pickle: it takes from an empty stack")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise CheckpointError("is no valid pickle: it goes back to a mark that was not set")
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
        target = expect(list, self._pop(), "what is appended to")
        target.extend(items)
        self.stack.append(target)

    def _add_items(self, _: object) -> None:
        items = self._pop_to_mark()
        target = expect(set, self._pop(), "what is added to")
        target.update(map(self._key, items))
        self.stack.append(target)

    def _set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._update_last([key, value])

    def _set_items(self, _: object) -> None:
        self._update_last(self._pop_to_mark())

    def _update_last(self, items: list[Any]) -> None:
        target = expect(dict, self._pop(), "what items are set in")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value
        self.stack.append(target)

    def _key(self, value: object) -> object:
        if not isinstance(value, self.keys):
            expect(self.keys[0], value, "a key")
        return value

    def _put(self, index: int | None) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[len(self.memo) if index is None else index] = value

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise CheckpointError(f"is no valid pickle: it gets memo {index}, which was not put")
        self.stack.append(self.memo[index])

    def _find(self, name: str) -> None:
        if name not in self.makers:
            raise CheckpointError(
                f"wants {brief(name.replace(' ', '.'))}, which is never loaded: the file is hostile, or of a kind "
                "that is not read"
            )
        self.stack.append(Global(name, self.makers[name]))

    def _find_on_stack(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        self._find(f"{expect(str, module, 'a module name')} {expect(str, name, 'a name')}")

    def _reduce(self, _: object) -> None:
        arguments = expect(tuple, self._pop(), "the arguments of a call")
        made = expect(Global, self._pop(), "what is called")
        self.stack.append(made.make(*arguments))

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
_OPERATIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "TUPLE": Machine._tuple_to_mark,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._add_items,
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
    "BUILD": Machine._build,
    "BINPERSID": Machine._load_persistent,
}
