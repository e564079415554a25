"""Zip archives in the layout of torch.save, right and wrong."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping

import torch

from tests.generators.converted import torch_file

Entries = Mapping[str, bytes]


def entries_of(content: object) -> dict[str, bytes]:
    """Return the entries that torch.save writes."""
    with zipfile.ZipFile(io.BytesIO(torch_file(content))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: Entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of entries."""
    return archive_of_pairs(list(entries.items()), compression)


def archive_of_pairs(pairs: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of entries, of which some may have the same name."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, data in pairs:
                info = zipfile.ZipInfo(name)
                info.filename, info.compress_type = name, compression  # else it would take out what is wrong
                archive.writestr(info, data)
    return file.getvalue()


def with_directory(data: bytes, name: str, change: Callable[[bytearray], None]) -> bytes:
    """Return an archive in whose directory the record of an entry is changed."""
    changed = bytearray(data)
    at = -1
    while (at := changed.find(b"PK\x01\x02", at + 1)) >= 0:
        (length,) = struct.unpack_from("<H", changed, at + 28)
        if changed[at + 46 : at + 46 + length] == name.encode():
            record = changed[at : at + 46 + length]
            change(record)
            changed[at : at + 46 + length] = record
            return bytes(changed)
    raise AssertionError(f"no entry {name}")


def put(at: int, code: str, value: int) -> Callable[[bytearray], None]:
    """Return a change of one number of a directory's record."""
    return lambda record: struct.pack_into(code, record, at, value)


def bomb(name: str = "archive/data/0", size: int = 2**27) -> bytes:
    """Return an archive of 130 kB whose one big entry unpacks to 134 MB."""
    entries = entries_of({"g_ema": {"x": torch.zeros(1)}})
    return archive_of({**entries, name: bytes(size)}, zipfile.ZIP_DEFLATED)
