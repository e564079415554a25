"""Zip files whose members are deflated by the strategy that suits them, which Python's zipfile cannot choose.

Numbers like noise take fewer bytes without references to earlier ones (`Z_RLE`: runs and Huffman codes only), and a
tenth of the time. Any reader of zip files reads both.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

_LEVEL = 6
_SAMPLE = 1 << 16
"""Bytes from the beginning of a member by which its strategy is chosen."""
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE)
_VERSION, _DEFLATED, _UTF8, _MIDNIGHT, _FIRST_DAY = 20, 8, 0x800, 0, 0x21  # 1980-01-01, the first there is
_LARGEST = 0xFFFFFFFF


def write_zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a zip of named members, in their order; equal members give equal bytes.

    Raises:
        ValueError: it would exceed 4 GiB.
    """
    sink, directory = io.BytesIO(), list[bytes]()
    for name, data in members:
        packed, encoded = _deflated(data), name.encode()
        if max(len(data), sink.tell() + len(packed)) > _LARGEST:
            raise ValueError(f"the member {name} would make a zip of more than 4 GiB")
        sizes = zlib.crc32(data), len(packed), len(data), len(encoded), 0
        about = struct.pack("<HHHHHIIIHH", _VERSION, _UTF8, _DEFLATED, _MIDNIGHT, _FIRST_DAY, *sizes)
        place = struct.pack("<HHHII", 0, 0, 0, 0, sink.tell())
        directory.append(b"PK\x01\x02" + struct.pack("<H", _VERSION) + about + place + encoded)
        sink.write(b"PK\x03\x04" + about + encoded + packed)
    start, listed = sink.tell(), b"".join(directory)
    end = struct.pack("<HHHHIIH", 0, 0, len(directory), len(directory), len(listed), start, 0)
    sink.write(listed + b"PK\x05\x06" + end)
    return sink.getvalue()


def _deflated(data: bytes) -> bytes:
    sample = data[:_SAMPLE]
    tried = [(_deflate(sample, strategy), strategy) for strategy in _STRATEGIES]
    packed, best = min(tried, key=lambda pair: len(pair[0]))
    return packed if len(sample) == len(data) else _deflate(data, best)


def _deflate(data: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return compressor.compress(data) + compressor.flush()
