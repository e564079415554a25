"""WebDataset shards: where each sample lies and whether it is whole, samples read back, and shards written."""

import io
import re
import tarfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from infra.errors import ShardError
from infra.store import RESERVED_PREFIX, Store
from infra.tar_walk import BLOCK, Damage, Tape, TarMember, printable, walk_tar

KEY_FIELD = "__key__"
"""The field of a sample to be written that holds its key."""

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # webdataset's rule: the key ends at the first dot
_METADATA = re.compile(r"__[^/]*__($|/)|__MACOSX/|(.*/)?\.[^/]*$")
_GAP_BYTES = 1 << 20
_NAME_FIELD_BYTES = 100


@dataclass(frozen=True)
class Member:
    """One file of a sample; its data begins at byte `offset` of the shard. The extension is in lower case."""

    extension: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: the members that are there, and the byte range `[start, stop)` with their headers.

    `fault` says why it cannot be processed, None if it can. Bytes of a key that are not UTF-8 are written as `\\xNN`.
    """

    key: str
    members: tuple[Member, ...]
    start: int
    stop: int
    fault: str | None


@dataclass(frozen=True)
class ShardScan:
    """What a shard holds. `size` and `sha256` are of the bytes that could be read; `faults` are those of the shard."""

    shard: str
    size: int
    sha256: str
    samples: tuple[ShardSample, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class RawSample:
    """The undecoded members of one sample, by extension."""

    key: str
    members: Mapping[str, bytes]


def scan_shard(stream: BinaryIO, name: str, size: int) -> ShardScan:
    """Return what a shard holds and what is wrong with it, from one sequential read; no damage raises an error.

    Keys are webdataset's: folder and base name up to the first dot; neighbours of one key are one sample. Of samples
    with one key the first is kept and the others carry a fault; so do samples next to damage that lack an extension
    which all others have. `size` is what the store lists. Raises only what reading the stream raises.
    """
    tape = Tape(stream)
    survey = _Survey()
    for item in walk_tar(tape):
        survey.damaged(item) if isinstance(item, Damage) else survey.add(item)
    faults = survey.faults()
    if tape.position != size:
        faults.append(f"{tape.position} bytes could be read, {size} are listed; upload the shard again")
    return ShardScan(name, tape.position, tape.sha256, survey.samples(), tuple(faults))


def read_samples(store: Store, shard: str, samples: Sequence[ShardSample]) -> list[RawSample]:
    """Return the samples' members, in the order given; neighbours in the shard come by one ranged read.

    Raises `ShardError` if a sample carries a fault, or if the shard no longer holds it where it was scanned.
    """
    for sample in samples:
        if sample.fault:
            raise ShardError(f"sample {sample.key!r} of {shard} cannot be read: {sample.fault}; quarantine it instead")
    read = []
    for run in _runs(samples):
        data = store.read(shard, run[0].start, run[-1].stop)
        read += [
            _extract(data[sample.start - run[0].start : sample.stop - run[0].start], sample, shard) for sample in run
        ]
    return read


def write_shard(path: Path, samples: Iterable[Mapping[str, bytes | str]]) -> None:
    """Write samples, each its key under `__key__` and its members by extension, as a shard in place of `path`.

    Equal samples give equal bytes. Raises `ShardError` if webdataset would read other keys or extensions back.
    """
    staged = path.with_name(f"{RESERVED_PREFIX}{uuid.uuid4().hex}.part")
    try:
        with staged.open("xb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for sample in samples:
                key = str(sample[KEY_FIELD])
                for extension, content in sample.items():
                    if extension != KEY_FIELD:
                        data = content.encode() if isinstance(content, str) else content
                        add_member(archive, key, extension, data)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def add_member(archive: tarfile.TarFile, key: str, extension: str, data: bytes) -> None:
    """Append one member with nothing in its header that differs between runs.

    Raises `ShardError` if webdataset would split the name into another key and extension.
    """
    name = f"{key}.{extension}"
    if split_name(name) != (key, extension):
        raise ShardError(
            f"a member named {name!r} would be read back as (key, extension) {split_name(name)}, wanted "
            f"{(key, extension)}; a key holds no dot after its last '/', an extension is in lower case"
        )
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o444
    info.mtime = 0
    archive.addfile(info, io.BytesIO(data))


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and lower-case extension of a member's name as webdataset does, None if it has none."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


@dataclass
class _Draft:
    """A sample while its members are coming in."""

    key: str
    start: int
    stop: int
    members: list[Member] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    damage: Damage | None = None


@dataclass
class _Survey:
    """Groups the members of a shard into samples, in one pass."""

    drafts: list[_Draft] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    first_starts: dict[str, int] = field(default_factory=dict)
    unclaimed: Damage | None = None

    def damaged(self, damage: Damage) -> None:
        """Note a damage; the samples before and after it may lack members."""
        self.damages.append(damage)
        self.unclaimed = damage
        if self.drafts:
            self.drafts[-1].damage = self.drafts[-1].damage or damage

    def add(self, member: TarMember) -> None:
        """Put a member into the sample it belongs to; pass over what webdataset does."""
        if member.kind == tarfile.DIRTYPE or _METADATA.match(member.name):
            return
        split = split_name(member.name)
        if not member.regular or split is None:
            self.passed_over["files without an extension" if member.regular else "links, devices or sparse files"] += 1
            return
        key, extension = printable(split[0]), printable(split[1])
        name_doubted = self.unclaimed is not None and _may_be_cut(member)
        draft = self._draft(key, member)
        if name_doubted:
            draft.faults.append("its name may be cut short: the header before it is corrupted")
        draft.stop = member.stop
        if printable(member.name) != member.name:
            draft.faults.append(f"the name {printable(member.name)!r} is not UTF-8")
        if member.present < member.size:
            draft.faults.append(
                f"incomplete: the shard ends after {member.present} of {member.size} bytes of its {extension!r}; "
                "upload the shard again"
            )
            draft.stop = member.offset + member.present
            return
        if member.size == 0:
            draft.faults.append(f"its {extension!r} is empty")
        if any(other.extension == extension for other in draft.members):
            draft.faults.append(f"it has a second {extension!r}, at byte {member.start}")
        draft.members.append(Member(extension, member.offset, member.size))

    def samples(self) -> tuple[ShardSample, ...]:
        """Return the samples in the order of the shard."""
        whole = [
            {member.extension for member in draft.members}
            for draft in self.drafts
            if not (draft.damage or draft.faults)
        ]
        expected: set[str] = set.intersection(*whole) if whole else set()
        for draft in self.drafts:
            lacking = sorted(expected - {member.extension for member in draft.members})
            if draft.damage and lacking and not draft.faults:
                draft.faults.append(f"incomplete: it lacks {', '.join(lacking)}; the shard is {draft.damage.message}")
        return tuple(
            ShardSample(draft.key, tuple(draft.members), draft.start, draft.stop, "; ".join(draft.faults) or None)
            for draft in self.drafts
        )

    def faults(self) -> list[str]:
        """Return what is wrong with the shard as a whole, each with what was kept and what to do."""
        kept = f"{len(self.drafts)} samples were found; write or upload the shard again to have the rest"
        faults = [f"{damage.message}; {kept}" for damage in self.damages]
        faults += [f"{count} {what} belong to no sample" for what, count in sorted(self.passed_over.items())]
        if not self.drafts and not self.damages:
            faults.append("it holds no samples; write it again, or take it out of the input")
        return faults

    def _draft(self, key: str, member: TarMember) -> _Draft:
        """Return the sample of this key that is being read, a new one if the key changes here."""
        if not self.drafts or self.drafts[-1].key != key:
            draft = _Draft(key, member.start, member.stop)
            first = self.first_starts.setdefault(key, member.start)
            if first != member.start:
                draft.faults.append(
                    f"duplicate key {key!r}: the first is at byte {first}, this one at byte {member.start}; give it a "
                    "key of its own, or take it out of the shard"
                )
            draft.damage = self.unclaimed
            self.drafts.append(draft)
        self.unclaimed = None
        return self.drafts[-1]


def _may_be_cut(member: TarMember) -> bool:
    """Return whether a member may have had a longer or foreign name in an extended header that is gone."""
    bare = member.offset - member.start == BLOCK
    return bare and (len(member.name.encode("utf-8", "surrogateescape")) >= _NAME_FIELD_BYTES or "?" in member.name)


def _runs(samples: Sequence[ShardSample]) -> Iterator[list[ShardSample]]:
    """Yield the samples in runs that are worth one read: each begins at most a small gap after the one before."""
    run: list[ShardSample] = []
    for sample in samples:
        if run and not 0 <= sample.start - run[-1].stop <= _GAP_BYTES:
            yield run
            run = []
        run.append(sample)
    if run:
        yield run


def _extract(data: bytes, sample: ShardSample, shard: str) -> RawSample:
    """Return a sample from its byte range, if the headers there still say what the scan saw."""
    survey = _Survey()
    for item in walk_tar(Tape(io.BytesIO(data), digest=False)):
        if isinstance(item, TarMember):
            survey.add(item)
    wanted = tuple(Member(member.extension, member.offset - sample.start, member.size) for member in sample.members)
    if [(draft.key, tuple(draft.members)) for draft in survey.drafts] != [(sample.key, wanted)]:
        raise ShardError(
            f"{shard} changed since it was scanned: bytes {sample.start} to {sample.stop} are not sample "
            f"{sample.key!r} any more; scan it again"
        )
    return RawSample(
        sample.key, {member.extension: data[member.offset : member.offset + member.size] for member in wanted}
    )
