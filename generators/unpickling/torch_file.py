"""Read torch.save files, zip archives and legacy streams, without running code from them.

`torch.load(weights_only=True)` is not used: a file of 500 KB with a deeply nested key ends the process in it, it copies
the whole content, and it refuses the training arguments that published checkpoints store with their weights.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from generators.errors import CheckpointError, UnknownFormatError
from generators.unpickling.machine import Budget, Global, Machine, Makers, View
from generators.unpickling.pickles import numpy_makers
from generators.unpickling.records import (
    Ignored,
    Storage,
    StoredTensor,
    brief,
    default_of,
    expect,
    namespace_of,
    ordered_of,
    parameter_of,
    refusal_of,
    size_of,
    tensor_of,
)
from generators.unpickling.torch_streams import STORAGE_TYPES, never, read_stream, storage_of, unread_storage

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

MAX_OPERATIONS = 2_000_000
MAX_ENTRIES = 50_000
_ENTRY = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1


def _subclass_of(make: object, _kind: object, arguments: object, *_state: object) -> StoredTensor:
    """Return a tensor of another class, or with attributes, as a plain tensor."""
    maker, parts = expect(Global, make, "what makes a tensor"), expect(tuple, arguments, "the arguments of a tensor")
    if maker.make not in (tensor_of, parameter_of) or any(map(refusal_of, parts)):
        raise CheckpointError(f"makes a tensor with {brief(maker.name)}, which no published generator does")
    found: StoredTensor = maker.make(*parts)
    return found


_MAKERS: Final[Makers] = {
    "collections OrderedDict": ordered_of,
    "collections defaultdict": default_of,
    "argparse Namespace": namespace_of,
    "torch._utils _rebuild_tensor": tensor_of,
    "torch._utils _rebuild_tensor_v2": tensor_of,
    "torch._utils _rebuild_parameter": parameter_of,
    "torch._utils _rebuild_parameter_with_state": parameter_of,
    "torch._tensor _rebuild_from_type_v2": _subclass_of,
    "torch Tensor": never,
    "torch._tensor Tensor": never,
    "torch.nn.parameter Parameter": never,
    "torch Size": size_of,
    **numpy_makers(),
}


def load_torch_file(data: bytes) -> object:
    """Return the content of a torch.save file as plain values and records.

    Tensors are `StoredTensor`s: views of the file whose `tensor()` makes a copy, so that only used tensors take
    memory. Numpy arrays are `Array`s; every object of other software, such as training arguments, is `Ignored`. Nothing
    is written anywhere.

    Args:
        data: the whole file.

    Raises:
        CheckpointError: the file is truncated, hostile, announces more than it holds, is a whole object that is never
            loaded, or is not a torch.save file.
    """
    try:
        if data.startswith(ZIP):
            return _state_of(_read_archive(data))
        if data.startswith(LEGACY):
            return _state_of(read_stream(data, Budget(MAX_OPERATIONS), _MAKERS, passes_over=True)[0])
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile file provokes is the file's fault
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"is truncated or not a valid torch.save file ({reason})") from error
    raise UnknownFormatError("is not a torch.save file")


def _state_of(content: object) -> object:
    if refusal := refusal_of(content):
        nvidia = "torch_utils.persistence" in refusal
        remedy = (
            "pickle.dump({'G_ema': network}, file)" if nvidia else "torch.save({'g_ema': network.state_dict()}, file)"
        )
        raise CheckpointError(
            f"{refusal}. The file is a whole network that torch.save pickled, as PTI does, not a dictionary of "
            f"tensors: on the machine that made it, write it with {remedy}"
        )
    return content


def _read_archive(data: bytes) -> object:
    entries = _entries(data)
    pickled = entries.get("data.pkl")
    if pickled is None:
        raise UnknownFormatError("is a zip archive without the data.pkl of torch.save")
    if bytes(entries.get("byteorder", b"little")) != b"little":
        raise CheckpointError("holds numbers that are not little-endian")
    storages: dict[str, Storage] = {}

    def storage(identity: object) -> Storage | Ignored:
        if refusal := unread_storage(identity):
            return Ignored(refusal)
        key, dtype, count = storage_of(identity)
        numbers = entries.get(f"data/{key}", memoryview(b""))
        found = storages.setdefault(key, Storage(dtype, count, numbers))
        if (found.dtype, found.count, found.size) != (dtype, count, len(numbers)):
            raise CheckpointError(
                f"announces storage {brief(key)} of {brief(count)} numbers of {dtype}, but holds {len(numbers)} bytes"
            )
        return found

    makers = {**STORAGE_TYPES, **_MAKERS}
    return Machine(View(pickled), Budget(MAX_OPERATIONS), makers, storage, passes_over=True).run()


def _entries(data: bytes) -> Mapping[str, memoryview]:
    """Return the entries of an archive as views of it, by their names inside its one folder."""
    if data.count(_ENTRY) > MAX_ENTRIES:
        raise CheckpointError(f"is a zip archive of more than {MAX_ENTRIES:,} entries")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed, end = archive.infolist(), archive.start_dir
    entries: dict[str, memoryview] = {}
    folder = listed[0].orig_filename.partition("/")[0] if listed else ""
    for info in listed:
        name = _checked_name(info, folder)
        if name in entries:
            raise CheckpointError(f"is a zip archive with two entries named {brief(name)}")
        entries[name] = _content(data, info, end)
    _refuse_overlaps(listed)
    return entries


def _checked_name(info: zipfile.ZipInfo, folder: str) -> str:
    name = info.orig_filename
    path = PurePosixPath(name)
    plain = name.isascii() and name.isprintable() and "\\" not in name and str(path) == name
    if not plain or path.is_absolute() or ".." in path.parts or path.parts[0] != folder or len(path.parts) < 2:
        raise CheckpointError(f"is a zip archive with an entry named {brief(name)}, which torch.save never writes")
    return name[len(folder) + 1 :]


def _content(data: bytes, info: zipfile.ZipInfo, end: int) -> memoryview:
    """Return the bytes of an entry: uncompressed, between its own header and the directory."""
    name = brief(info.orig_filename)
    if info.flag_bits & _ENCRYPTED or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise CheckpointError(f"is a zip archive with the compressed or encrypted entry {name}: torch.save stores them")
    at = info.header_offset
    signature, name_length, extra_length = _LOCAL.unpack(data[at : at + _LOCAL.size])
    start = at + _LOCAL.size + name_length + extra_length
    own_name = data[at + _LOCAL.size : at + _LOCAL.size + name_length]
    if signature != ZIP or own_name != info.orig_filename.encode():
        raise CheckpointError(f"is a zip archive whose entry {name} is not where its directory says")
    if start + info.file_size > end:
        raise CheckpointError(f"is a zip archive whose entry {name} announces {info.file_size:,} bytes, past its end")
    return memoryview(data)[start : start + info.file_size]


def _refuse_overlaps(listed: list[zipfile.ZipInfo]) -> None:
    before = 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        if info.header_offset < before:
            raise CheckpointError(f"is a zip archive whose entry {brief(info.orig_filename)} lies inside another")
        before = info.header_offset + _LOCAL.size + len(info.orig_filename) + info.file_size
