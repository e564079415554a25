"""What a file is by its first bytes: a tar, or a kind of file that is mistaken for a shard."""

import codecs
import re
import tarfile
from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 512
"""Number of bytes that `kind_of` needs."""

Group = Literal["tar", "compressed", "picture", "other"]


@dataclass(frozen=True)
class FileKind:
    """A kind of file: its name for use in a sentence; for compressed files the name of the compression."""

    group: Group
    name: str


_TAR = FileKind("tar", "a tar")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
}
_PICTURES = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
}
_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF document",
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
    b"version https://git-lfs": "a pointer of Git LFS, whose content was not fetched (git lfs pull)",
}
_ISO_MEDIA = {
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
    b"heic": "a HEIC picture",
    b"mif1": "a HEIF picture",
}
_NETPBM = re.compile(rb"P[1-6]\s")
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<error")


def kind_of(head: bytes) -> FileKind | None:
    """Return the kind of file that begins with these bytes (its first `HEAD_BYTES`), None if unknown."""
    if is_tar(head):
        return _TAR
    return _from_magic(head) or _from_structure(head) or _from_text(head)


def is_tar(head: bytes) -> bool:
    """Return whether these bytes begin a tar: a header with a correct checksum, or the end marker of an empty one."""
    block = head[: tarfile.BLOCKSIZE]
    if len(block) == tarfile.BLOCKSIZE and not any(block):
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _from_magic(head: bytes) -> FileKind | None:
    groups: tuple[tuple[Group, dict[bytes, str]], ...] = (
        ("compressed", _COMPRESSED),
        ("picture", _PICTURES),
        ("other", _OTHERS),
    )
    for group, kinds in groups:
        for magic, name in kinds.items():
            if head.startswith(magic):
                return FileKind(group, name)
    return None


def _from_structure(head: bytes) -> FileKind | None:
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return FileKind("picture", "a BMP picture")
    if _NETPBM.match(head):
        return FileKind("picture", "a PNM picture")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileKind("picture", "a WebP picture")
    if head[4:8] == b"ftyp":
        name = _ISO_MEDIA.get(head[8:12])
        return FileKind("picture", name) if name else FileKind("other", "a video")
    return None


def _from_text(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:16].lower().startswith(_PAGES):
        return FileKind("other", "an HTML or XML page, as servers send instead of a file that they refuse")
    if text[:1] in (b"{", b"["):
        return FileKind("other", "a JSON file")
    return FileKind("other", "a text file") if text and _is_text(text) else None


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # accepts a character cut off at the end
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
