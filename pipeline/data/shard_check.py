"""Refuse input other than shards, by the first bytes of its files, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from infra.addresses.found import Found, some
from infra.errors import InfraError
from infra.shards.file_kinds import HEAD_BYTES, FileKind, kind_of
from infra.stores.store import Store
from pipeline.data.inventory import ListedShard
from pipeline.errors import ConfigError

MOST = 1000
"""Maximum number of files examined, per kind of name."""
_AT_A_TIME = 16
_EMPTY = FileKind("other", "empty")
_REMEDY = "put the pictures into tars, as with `tar --sort=name -cf shards/000000.tar -C PICTURES .`, and give those"
_NAMES = "give a pattern that matches the tars only, as in FOLDER/*.tar"


def check_shards(new: Sequence[ListedShard], sources: Sequence[Store], *, others: bool) -> None:
    """Return if these files, which have no inventory yet, may be shards; `others` of the input are known to be.

    Files whose names do not end in `.tar` are examined, and of the others as many as needed to find a tar.

    An unreadable file may be a shard: its inventory will report the damage.

    Raises:
        ConfigError: a file by another name than a tar's is of a known kind that is neither a tar nor a compressed file,
            or none of the input's files is a tar; the message says what was found, and how to make shards.
        InfraError: no file of the input can be read.
    """
    closed: list[InfraError] = []
    named = [one for one in new if one.entry.name.lower().endswith(".tar")]
    unnamed = [one for one in new if not one.entry.name.lower().endswith(".tar")]
    tars, first = others, None
    for listed, kind in _kinds(unnamed, sources, closed):
        if kind is not None and kind.group in ("picture", "other"):
            raise ConfigError(f"input: {_told(listed, sources)} is {kind.name}, not a shard (a tar); {_remedy(kind)}")
        tars = tars or kind is None or kind.group == "tar"
        first = first or (listed, kind)
    if tars:
        return
    for listed, kind in _kinds(named, sources, closed):
        if kind is None or kind.group == "tar":
            return
        first = first or (listed, kind)
    if closed:
        raise closed[0]
    if first is not None and first[1] is not None:
        raise ConfigError(_none(len(new), first[0], first[1], sources))


def instead_of_tars(found: Found) -> str:
    """Return what a folder without `.tar` files holds, by the content of its first file, and what to do."""
    first = found.entries[0]
    try:
        kind = kind_of(found.store.read(first.name, 0, HEAD_BYTES)) if first.size else _EMPTY
    except InfraError:
        kind = None
    count = some([entry.name for entry in found.entries], "other files")
    if kind is None:
        return f"it has {count}; {_NAMES}"
    if kind.group == "tar":
        return f"it has {count}, a tar of another name; end the address with /* to read every file of the folder"
    return f"it has {count}, {_named(kind)}; {_remedy(kind)}"


def _kinds(
    files: Sequence[ListedShard], sources: Sequence[Store], closed: list[InfraError]
) -> Iterator[tuple[ListedShard, FileKind | None]]:
    """Yield the kinds of the first files; read a few at a time, and no more than requested.

    Reasons of unreadable files are added to `closed`.
    """

    def kind(listed: ListedShard) -> FileKind | InfraError | None:
        if listed.entry.size == 0:
            return _EMPTY
        try:
            return kind_of(sources[listed.address].read(listed.entry.name, 0, HEAD_BYTES))
        except InfraError as error:
            return error

    remaining = islice(files, MOST)
    with ThreadPoolExecutor(_AT_A_TIME, "input") as readers:
        while batch := list(islice(remaining, _AT_A_TIME)):
            for listed, found in zip(batch, readers.map(kind, batch), strict=True):
                if isinstance(found, InfraError):
                    closed.append(found)
                else:
                    yield listed, found


def _none(count: int, listed: ListedShard, kind: FileKind, sources: Sequence[Store]) -> str:
    """Return the message that none of the files is a tar, with the kind of the first one."""
    told = f"{_told(listed, sources)} is {_named(kind)}"
    return f"input: none of the {count} files is a plain tar: {told}; {_remedy(kind)}"


def _named(kind: FileKind) -> str:
    return f"compressed with {kind.name}" if kind.group == "compressed" else kind.name


def _remedy(kind: FileKind) -> str:
    if kind.group == "compressed":
        return (
            "samples cannot be read from the middle of a compressed file: unpack the files (gzip's with gunzip) "
            "and give the plain tars"
        )
    return _REMEDY if kind.group == "picture" else _NAMES


def _told(listed: ListedShard, sources: Sequence[Store]) -> str:
    return f"{sources[listed.address].url}/{listed.entry.name}"
