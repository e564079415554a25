"""Walk a tar as far as it can be read, and report where it cannot: damage never ends the walk silently.

Python's `tarfile` treats a cut between two members, a cut inside a header and a corrupted header as the end of the
archive. So headers are read one by one here, and `tarfile` decodes each.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from infra.shards.file_kinds import kind_of
from infra.shards.member_names import printable

BLOCK = 512
HEAD_BYTES = 16
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
_SPARSE_MORE = 482  # in a sparse header: whether blocks with the rest of its map precede the data
_SPARSE_MORE_AGAIN = 504  # the same in such a block
_SPARSE_KEYWORD = "GNU.sparse."
_END_MARKER_BLOCKS = 2
_RECORD = tarfile.RECORDSIZE  # most writers fill an archive up to a multiple of it

DamageKind = Literal["compressed", "not a tar", "empty", "truncated", "corrupted", "appended to"]


@dataclass(frozen=True)
class TarMember:
    """One member: its headers begin at `start`, its data at `offset`, and what follows it at `stop`.

    Undecodable bytes of the name stay as surrogates. `head` holds the first bytes of the data. `present` is less than
    `size` if the archive is cut in the data.
    """

    name: str
    kind: bytes
    start: int
    offset: int
    size: int
    stop: int
    present: int
    head: bytes = b""

    @property
    def regular(self) -> bool:
        """Whether this is a file with its content in place, not a folder, link, device or sparse file."""
        return self.kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Damage:
    """Damage at a byte of the archive: members next to it may be incomplete.

    "appended to" means that data follows a whole archive; nothing is lost.
    """

    start: int
    kind: DamageKind
    message: str


class Tape:
    """A stream that is read once from front to back; counts and, by default, digests its bytes."""

    def __init__(self, stream: BinaryIO, digest: bool = True) -> None:
        self.position = 0
        self._stream = stream
        self._sha256 = hashlib.sha256() if digest else None

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of all bytes read; "" without one."""
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
        """Skip the next bytes, and return their number."""
        start = self.position
        while (left := length - (self.position - start)) > 0 and self.take(min(left, _CHUNK)):
            pass
        return self.position - start


def sha256_of(stream: BinaryIO) -> str:
    """Return the hexadecimal digest of the rest of a stream."""
    tape = Tape(stream)
    while tape.skip(_CHUNK):
        pass
    return tape.sha256


class _CutError(Exception):
    """The stream ended in the middle of a header."""


def walk_tar(tape: Tape) -> Iterator[TarMember | Damage]:
    """Yield the members and the damages of an archive in their order, until the stream ends.

    After a corrupted header the walk resumes at the next valid one, and also after an end marker if data follows.
    """
    block, zeros = tape.take(BLOCK), 0
    if damage := _foreign(block):
        while tape.skip(_CHUNK):
            pass
        yield damage
        return
    while len(block) == BLOCK:
        start = tape.position - BLOCK
        if block == _ZEROS:
            zeros += 1
            block = tape.take(BLOCK)
            continue
        if zeros and _is_valid(block):
            yield _continued(start, zeros)
        try:
            member = _read_member(tape, block, start)
        except _CutError:
            yield Damage(tape.position, "truncated", f"truncated inside a header at byte {tape.position}")
            return
        except tarfile.HeaderError:
            block, zeros, damage = _resynchronise(tape, start, zeros)
            yield damage
            continue
        zeros = 0
        yield member
        if tape.position < member.stop:
            yield _cut_in(member, tape.position)
            return
        block = tape.take(BLOCK)
    yield from _judge_end(tape, len(block), zeros)


def _foreign(block: bytes) -> Damage | None:
    """Return the damage of a file that begins like a known format other than tar."""
    kind = kind_of(block)
    if kind is None or kind.group == "tar":
        return None
    if kind.group == "compressed":
        return Damage(
            0,
            "compressed",
            f"compressed with {kind.name}: samples cannot be read from the middle; store the plain tar",
        )
    return Damage(0, "not a tar", f"not a tar but {kind.name}; write it again as a tar, or remove it from the input")


def _continued(start: int, zeros: int) -> Damage:
    """Return the damage of a header after zero blocks: tars joined into one, or zeros instead of members."""
    if zeros != _END_MARKER_BLOCKS and (zeros < _END_MARKER_BLOCKS or start % _RECORD):
        return Damage(
            start, "corrupted", f"corrupted: {zeros} blocks of zeros before byte {start}, members may be missing"
        )
    return Damage(
        start,
        "appended to",
        f"the end marker is followed by more members at byte {start}: other readers stop before it",
    )


def _judge_end(tape: Tape, remainder: int, zeros: int) -> Iterator[Damage]:
    """Yield the damage at the end: `zeros` zero blocks came last, then `remainder` bytes."""
    if tape.position == 0:
        yield Damage(0, "empty", "empty: it has no bytes")
    elif remainder and zeros < 2:
        yield Damage(tape.position, "truncated", f"truncated inside a header or the end marker at byte {tape.position}")
    elif remainder:
        yield Damage(
            tape.position, "truncated", f"truncated in the padding after the end marker at byte {tape.position}"
        )
    elif zeros == 1:
        yield Damage(tape.position, "truncated", f"truncated inside the end marker at byte {tape.position}")
    elif zeros == 0:
        yield Damage(
            tape.position,
            "truncated",
            f"truncated at byte {tape.position}: it has no end marker, and members may be missing",
        )


def _cut_in(member: TarMember, position: int) -> Damage:
    where = "the data" if member.present < member.size else "the padding"
    return Damage(position, "truncated", f"truncated in {where} of {printable(member.name)!r} at byte {position}")


def _read_member(tape: Tape, block: bytes, start: int) -> TarMember:
    """Return the member whose first header is this block, and skip its data.

    Raises `tarfile.HeaderError` on a corrupted header, `_CutError` if the stream ends before the headers do.
    """
    headers = _Headers()
    info = _decode(block)
    while info.type in _EXTENSIONS:
        if info.size > _LONGEST_EXTENSION:
            raise tarfile.HeaderError(f"an extended header of {info.size} bytes")
        headers.add(info, _taken(tape, _padded(info.size)))
        block = _taken(tape, BLOCK)
        info = _decode(block)
    if headers.garbled(info.name):
        raise tarfile.HeaderError("a long name that does not match the short one")
    if info.type == tarfile.GNUTYPE_SPARSE and block[_SPARSE_MORE]:
        while _taken(tape, BLOCK)[_SPARSE_MORE_AGAIN]:
            pass
    size = info.size if headers.size is None else headers.size
    held = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
    kind = tarfile.GNUTYPE_SPARSE if headers.sparse else info.type
    offset = tape.position
    head = tape.take(min(held, HEAD_BYTES))
    present = min(len(head) + tape.skip(_padded(held) - len(head)), held)
    return TarMember(headers.name or info.name, kind, start, offset, held, offset + _padded(held), present, head)


@dataclass
class _Headers:
    """The content of the extended headers before a member's own."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False
    long_name: str | None = None  # which GNU tar writes before a header that holds its beginning

    def add(self, info: tarfile.TarInfo, payload: bytes) -> None:
        """Read one extended header; a global one does not describe a single member."""
        payload = payload[: info.size]
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self.name = self.long_name = payload.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records = _pax_records(payload)
            self.name = records.get(f"{_SPARSE_KEYWORD}name") or records.get("path", self.name)
            self.size = int(records["size"]) if records.get("size", "").isdecimal() else self.size
            self.sparse = self.sparse or any(keyword.startswith(_SPARSE_KEYWORD) for keyword in records)

    def garbled(self, beginning: str) -> bool:
        """Return whether a long name that is not UTF-8 also differs from the name in the member's own header."""
        name = self.long_name
        if name is None or printable(name) == name:
            return False
        return not name.encode("utf-8", "surrogateescape").startswith(beginning.encode("utf-8", "surrogateescape"))


def _taken(tape: Tape, length: int) -> bytes:
    """Return the next bytes; raise `_CutError` if the stream ends before them."""
    data = tape.take(length)
    if len(data) < length:
        raise _CutError
    return data


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


def _resynchronise(tape: Tape, start: int, zeros_before: int) -> tuple[bytes, int, Damage]:
    """Return the next valid header after a corrupted one (or the rest at the end), the zero blocks just before it,
    and the damage in between. Data between an end marker and the end of the file is not damage to the archive.
    """
    zeros = 0
    block = tape.take(BLOCK)
    while len(block) == BLOCK and not _is_header(block):
        zeros = zeros + 1 if block == _ZEROS else 0
        block = tape.take(BLOCK)
    stop = tape.position - len(block)
    ended = len(block) < BLOCK
    if ended and zeros_before >= _END_MARKER_BLOCKS and zeros < _END_MARKER_BLOCKS:
        message = f"the end marker is followed by {tape.position - start} bytes that are not a tar's at byte {start}"
        return b"", _END_MARKER_BLOCKS, Damage(start, "appended to", message)
    message = f"corrupted header at byte {start}: the bytes up to {stop} are skipped, members in them are lost"
    return block, zeros if ended else 0, Damage(start, "corrupted", message)


def _is_header(block: bytes) -> bool:
    return block[257:262] == b"ustar" and _is_valid(block)


def _is_valid(block: bytes) -> bool:
    try:
        _decode(block)
    except tarfile.HeaderError:
        return False
    return True


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
