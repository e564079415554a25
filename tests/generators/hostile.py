"""Pickles that touch a file when they are trusted, by every operation that can call, and parts to build them of."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

from tests.generators.published import fragment

HERE = __name__.encode()
"""Where a pickle finds what does harm, if it is trusted."""
MAGIC, SYSTEM = 0x1950A86A20F9469CFC6C, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


class TouchesWhenMade:
    def __new__(cls, path: str):
        Path(path).touch()
        return super().__new__(cls)


class TouchesWhenSet:
    def __setstate__(self, path: str) -> None:
        Path(path).touch()


def touch(path: str) -> None:
    Path(path).touch()


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: bytes, name: bytes, argument: str) -> bytes:
    return b"c" + module + b"\n" + name + b"\n" + text(argument) + b"\x85R"


def load_from_bytes(stream: bytes) -> bytes:
    return b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(stream)) + stream + b"\x85R"


def stream(root: bytes, data: bytes = b"", count: int = 0, keys: object = ("7",)) -> bytes:
    first = b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, SYSTEM))
    return first + root + pickle.dumps(list(keys), protocol=2) + struct.pack("<q", count) + data


def storage_root(kind: bytes = b"torch\nFloatStorage", count: int = 2, view: bytes = b"N") -> bytes:
    number = fragment(count)
    return b"\x80\x02(" + text("storage") + b"c" + kind + b"\n" + text("7") + text("cpu") + number + view + b"tQ."


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "GLOBAL": lambda path: call(b"os", b"system", f"touch {path}"),
    "STACK_GLOBAL": lambda path: text("os") + text("system") + b"\x93" + text(f"touch {path}") + b"\x85R",
    "eval": lambda path: call(b"builtins", b"eval", f"open({path!r}, 'w').close()"),
    "exec": lambda path: call(b"builtins", b"exec", f"open({path!r}, 'w').close()"),
    "own name": lambda path: call(HERE, b"touch", path),
    "INST": lambda path: b"(" + text(path) + b"i" + HERE + b"\ntouch\n",
    "OBJ": lambda path: b"(c" + HERE + b"\nTouchesWhenMade\n" + text(path) + b"o",
    "NEWOBJ": lambda path: b"c" + HERE + b"\nTouchesWhenMade\n" + text(path) + b"\x85\x81",
    "NEWOBJ_EX": lambda path: b"c" + HERE + b"\nTouchesWhenMade\n" + text(path) + b"\x85}\x92",
    "BUILD": lambda path: b"c" + HERE + b"\nTouchesWhenSet\n)\x81" + text(path) + b"b",
    "in the middle": lambda path: b"}" + text("G_ema") + call(b"os", b"system", f"touch {path}") + b"s",
    "left on the stack": lambda path: call(b"os", b"system", f"touch {path}") + b"0}",
    "in a storage": lambda path: load_from_bytes(b"\x80\x02" + call(b"os", b"system", f"touch {path}") + b"."),
    "in a storage's root": lambda path: load_from_bytes(
        stream(b"\x80\x02" + call(b"os", b"system", f"touch {path}") + b".")
    ),
    "in an array": lambda path: (
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\n"
        + text("O")
        + b"\x89\x88\x87R\x89]"
        + call(b"os", b"system", f"touch {path}")
        + b"atb"
    ),
}


def rooted(attack: bytes) -> bytes:
    """Return a whole pickle of these operations."""
    return b"\x80\x02" + attack + b"."


def legacy_file(root: bytes, data: bytes = b"", count: int = 0, keys: object = ()) -> bytes:
    """Return a legacy torch.save file with this root pickle."""
    return stream(root, data, count, keys) if keys else stream(root, keys=())[:-8]
