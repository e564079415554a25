"""WebDataset shards: reading samples by their place from a scan, and writing shards."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import ChangedError, ShardError
from infra.files import staged
from infra.shards.member_names import printable, split_name
from infra.shards.scan import Member, ShardFault, ShardSample, ShardScan, scan_shard
from infra.shards.tar_walk import Tape, TarMember, walk_tar
from infra.stores.store import Store

__all__ = [
    "KEY_FIELD",
    "Member",
    "RawSample",
    "ShardFault",
    "ShardSample",
    "ShardScan",
    "add_member",
    "read_samples",
    "scan_shard",
    "split_name",
    "write_shard",
]

KEY_FIELD = "__key__"
"""The field of a sample to be written that holds its key."""

_GAP_BYTES = 1 << 20


@dataclass(frozen=True)
class RawSample:
    """The undecoded members of one sample, by extension; `unusable` says why others cannot be used."""

    key: str
    members: Mapping[str, bytes]
    unusable: Mapping[str, str] = field(default_factory=dict)


def read_samples(
    store: Store, shard: str, samples: Sequence[ShardSample], version: str | None = None
) -> list[RawSample]:
    """Return the samples' members, in the given order; one ranged read fetches what is adjacent in the shard.

    `version` is the shard's at the time of the scan, as the store lists it. Raises `ShardError` if a sample carries a
    fault, or if the shard has another version or no longer holds the sample at its place.
    """
    for sample in samples:
        if sample.fault:
            raise ShardError(f"sample {sample.key!r} of {shard} cannot be read: {sample.fault}; quarantine it instead")
    owners = {member.start: (sample.key, member) for sample in samples for member in sample.members}
    content: dict[int, bytes] = {}
    for run in _runs([owners[start] for start in sorted(owners)]):
        start = run[0][1].start
        try:
            data = store.read(shard, start, run[-1][1].stop, version)
        except ChangedError as error:
            raise ShardError(f"{shard} changed since it was scanned: {error}; run again") from error
        for key, member in run:
            content[member.start] = _extract(data[member.start - start : member.stop - start], key, member, shard)
    return [
        RawSample(
            sample.key,
            {member.extension: content[member.start] for member in sample.members},
            sample.unusable,
        )
        for sample in samples
    ]


def write_shard(path: Path, samples: Iterable[Mapping[str, bytes | str]]) -> None:
    """Write samples, each its key under `__key__` and its members by extension, as a shard at `path`, replacing it.

    Equal samples give equal bytes. Raises `ShardError` if webdataset would read back other keys or extensions.
    """
    with staged(path) as partial:
        _write_tar(partial, samples)


def _write_tar(path: Path, samples: Iterable[Mapping[str, bytes | str]]) -> None:
    with tarfile.open(path, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for sample in samples:
            key = str(sample[KEY_FIELD])
            for extension, content in sample.items():
                if extension != KEY_FIELD:
                    data = content.encode() if isinstance(content, str) else content
                    add_member(archive, key, extension, data)


def add_member(archive: tarfile.TarFile, key: str, extension: str, data: bytes) -> None:
    """Append one member with a header that does not differ between runs.

    Raises `ShardError` if webdataset would split the name into another key and extension.
    """
    name = f"{key}.{extension}"
    if split_name(name) != (key, extension):
        raise ShardError(
            f"a member named {name!r} would be read back as (key, extension) {split_name(name)}, expected "
            f"{(key, extension)}; a key must not have a dot after its last '/', an extension must be in lower case"
        )
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o444
    info.mtime = 0
    archive.addfile(info, io.BytesIO(data))


def _runs(members: Sequence[tuple[str, Member]]) -> Iterator[list[tuple[str, Member]]]:
    """Yield members, sorted by place, in groups worth one read: with small gaps at most."""
    run: list[tuple[str, Member]] = []
    for key, member in members:
        if run and member.start - run[-1][1].stop > _GAP_BYTES:
            yield run
            run = []
        run.append((key, member))
    if run:
        yield run


def _extract(data: bytes, key: str, member: Member, shard: str) -> bytes:
    """Return a member's content from its byte range, if the headers there still match the scan."""
    found = next(walk_tar(Tape(io.BytesIO(data), digest=False)), None)
    offset = member.offset - member.start
    if (
        not isinstance(found, TarMember)
        or tuple(map(printable, split_name(found.name) or ())) != (key, member.extension)
        or (found.start, found.offset, found.size, found.present) != (0, offset, member.size, member.size)
    ):
        raise ShardError(
            f"{shard} changed since it was scanned: bytes {member.start} to {member.stop} are not the "
            f"{member.extension!r} of sample {key!r} any more; run again"
        )
    return data[offset : offset + member.size]
