"""Walks a tar as far as it can be read, and says where it cannot: no damage ends the walk without a word.

Python's `tarfile` takes a cut between two members, a cut inside a header and a corrupted header for the end of the
archive; so headers are read here one by one, with `tarfile` decoding each.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
_CHUNK = 1 << 20
_ZEROS = bytes(BLOCK)
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_LONGEST_EXTENSION = _CHUNK
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


@dataclass(frozen=True)
class TarMember:
    """One member: its headers begin at `start`, its data at `offset`, and what follows it at `stop`.

    Undecodable bytes of the name are kept as surrogates. `present` is less than `size` if the archive is cut in the
    data.
    """

    name: str
    kind: bytes
    start: int
    offset: int
    size: int
    stop: int
    present: int

    @property
    def regular(self) -> bool:
        """Whether this is a file with its content in place, not a folder, link, device or sparse file."""
        return self.kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Damage:
    """Something wrong at a byte of the archive: members next to it may lack a part."""

    start: int
    message: str


class Tape:
    """A stream that is read once from front to back; counts and, unless told not to, digests what passes."""

    def __init__(self, stream: BinaryIO, digest: bool = True) -> None:
        self.position = 0
        self._stream = stream
        self._sha256 = hashlib.sha256() if digest else None

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of everything that passed; "" if none was wanted."""
        return self._sha256.hexdigest() if self._sha256 else ""

    def take(self, length: int) -> bytes:
        """Return the next bytes, fewer only at the end of the stream."""
        pieces = []
        while length > 0 and (piece := self._stream.read(length)):
            pieces.append(piece)
            length -= len(piece)
            self.position += len(piece)
            if self._sha256:
                self._sha256.update(piece)
        return b"".join(pieces)

    def skip(self, length: int) -> int:
        """Pass over the next bytes, and return how many there were."""
        start = self.position
        while (left := length - (self.position - start)) > 0 and self.take(min(left, _CHUNK)):
            pass
        return self.position - start


class _CutError(Exception):
    """The stream ended where a header should go on."""


def walk_tar(tape: Tape) -> Iterator[TarMember | Damage]:
    """Yield the members and the damages of an archive in their order, until the stream ends.

    After a corrupted header the walk goes on at the next valid one; after an end marker too, should data follow.
    """
    block, zeros = tape.take(BLOCK), 0
    if compression := next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None):
        while tape.skip(_CHUNK):
            pass
        yield Damage(0, f"compressed with {compression}: samples cannot be read out of the middle; store the plain tar")
        return
    while len(block) == BLOCK:
        start = tape.position - BLOCK
        if block == _ZEROS:
            zeros += 1
            block = tape.take(BLOCK)
            continue
        if zeros:
            yield Damage(
                start, f"the end marker is followed by more data at byte {start}: other readers stop before it"
            )
        zeros = 0
        try:
            member = _read_member(tape, block, start)
        except _CutError:
            yield Damage(tape.position, f"truncated inside a header at byte {tape.position}")
            return
        except tarfile.HeaderError:
            block, zeros, damage = _resynchronise(tape, start)
            yield damage
            continue
        yield member
        if tape.position < member.stop:
            yield _cut_in(member, tape.position)
            return
        block = tape.take(BLOCK)
    yield from _judge_end(tape, len(block), zeros)


def _judge_end(tape: Tape, remainder: int, zeros: int) -> Iterator[Damage]:
    """Yield what is wrong with the end: `zeros` zero blocks came last, then `remainder` bytes."""
    if tape.position == 0:
        yield Damage(0, "empty: it has no bytes")
    elif remainder and zeros < 2:
        yield Damage(tape.position, f"truncated inside a header or the end marker at byte {tape.position}")
    elif remainder:
        yield Damage(tape.position, f"truncated in the padding after the end marker at byte {tape.position}")
    elif zeros == 1:
        yield Damage(tape.position, f"truncated inside the end marker at byte {tape.position}")
    elif zeros == 0:
        yield Damage(
            tape.position, f"truncated at byte {tape.position}: it has no end marker, and members may be missing"
        )


def _cut_in(member: TarMember, position: int) -> Damage:
    where = "the data" if member.present < member.size else "the padding"
    return Damage(position, f"truncated in {where} of {printable(member.name)!r} at byte {position}")


def _read_member(tape: Tape, block: bytes, start: int) -> TarMember:
    """Return the member whose first header is this block, having passed over its data.

    Raises `tarfile.HeaderError` on a corrupted header, `_CutError` if the stream ends before the headers do.
    """
    name: str | None = None
    size: int | None = None
    info = _decode(block)
    while info.type in _EXTENSIONS:
        if info.size > _LONGEST_EXTENSION:
            raise tarfile.HeaderError(f"an extended header of {info.size} bytes")
        payload = tape.take(_padded(info.size))
        if len(payload) < _padded(info.size):
            raise _CutError
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = payload[: info.size].rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records = _pax_records(payload[: info.size])
            name = records.get("path", name)
            size = int(records["size"]) if records.get("size", "").isdecimal() else size
        block = tape.take(BLOCK)
        if len(block) < BLOCK:
            raise _CutError
        info = _decode(block)
    size = info.size if size is None else size
    held = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
    offset = tape.position
    present = min(tape.skip(_padded(held)), held)
    return TarMember(name or info.name, info.type, start, offset, held, offset + _padded(held), present)


def _decode(block: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError(f"a size of {info.size} bytes")
    return info


def _pax_records(payload: bytes) -> dict[str, str]:
    """Return the records of a PAX header, each written as "LENGTH KEYWORD=VALUE\\n"."""
    records = {}
    while payload.rstrip(b"\0"):
        length, _, _ = payload.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(payload):
            raise tarfile.HeaderError("a malformed extended header")
        keyword, _, value = payload[len(length) + 1 : int(length) - 1].partition(b"=")
        records[keyword.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        payload = payload[int(length) :]
    return records


def _resynchronise(tape: Tape, start: int) -> tuple[bytes, int, Damage]:
    """Return the next valid header after a corrupted one (or what is left at the end), the zero blocks just before it,
    and the damage passed over.
    """
    zeros = 0
    block = tape.take(BLOCK)
    while len(block) == BLOCK and not _is_header(block):
        zeros = zeros + 1 if block == _ZEROS else 0
        block = tape.take(BLOCK)
    stop = tape.position - len(block)
    message = f"corrupted header at byte {start}: the bytes up to {stop} are passed over, members in them are lost"
    return block, 0 if len(block) == BLOCK else zeros, Damage(start, message)


def _is_header(block: bytes) -> bool:
    if block[257:262] != b"ustar":
        return False
    try:
        _decode(block)
    except tarfile.HeaderError:
        return False
    return True


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def printable(name: str) -> str:
    """Return a name with the bytes that are not UTF-8 written out as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
