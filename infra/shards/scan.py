"""The content of a shard, from one sequential read: its samples, the place of their members, and damage."""

import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from infra.shards.file_kinds import kind_of
from infra.shards.member_names import aside, printable, split_name
from infra.shards.tar_walk import BLOCK, Damage, DamageKind, Tape, TarMember, walk_tar

FaultKind = DamageKind | Literal["without samples", "without an extension", "sparse", "of another size than listed"]

_NAME_FIELD_BYTES = 100
_LINKS, _DEVICES, _SPARSE = "links", "devices and pipes", "sparse files"
_IRREGULAR = {
    tarfile.LNKTYPE: _LINKS,
    tarfile.SYMTYPE: _LINKS,
    tarfile.CHRTYPE: _DEVICES,
    tarfile.BLKTYPE: _DEVICES,
    tarfile.FIFOTYPE: _DEVICES,
    tarfile.GNUTYPE_SPARSE: _SPARSE,
}
_IN_PLACE_OF_CONTENT = {
    _LINKS: "write the shard again with tar --dereference --hard-dereference",
    _SPARSE: "write the shard again without tar --sparse",
}
"""Members that may have a sample's name without its content, and the remedy."""
_SELF_EXPLAINED = ("compressed", "not a tar")


@dataclass(frozen=True)
class Member:
    """One file of a sample: its headers begin at byte `start` of the shard, its data at `offset`.

    The extension is in lower case.
    """

    extension: str
    start: int
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """Where the next member begins."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard, which begins at byte `start`: its members in the order of the shard.

    `fault` says why it cannot be processed, None if it can. `unusable` says by extension why a member cannot be
    used, which affects only those who need it. `repeated`: an earlier sample of the shard has the same key.
    Bytes of a key that are not UTF-8 are written as `\\xNN`.
    """

    key: str
    start: int
    members: tuple[Member, ...]
    fault: str | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False

    @property
    def stop(self) -> int:
        """Where its last member ends."""
        return max((member.stop for member in self.members), default=self.start)


@dataclass(frozen=True)
class ShardFault:
    """Why a part of a shard, or all of it, was not read."""

    kind: FaultKind
    message: str


@dataclass(frozen=True)
class ShardScan:
    """The content of a shard. `size` and `sha256` are of the bytes that could be read.

    `faults` lists what was not read, `notes` what its owner may want to know; `passed_over` counts, by kind, the files
    that belong to no sample.
    """

    shard: str
    size: int
    sha256: str
    samples: tuple[ShardSample, ...]
    faults: tuple[ShardFault, ...]
    notes: tuple[str, ...]
    passed_over: Mapping[str, int]


def scan_shard(stream: BinaryIO, name: str, size: int) -> ShardScan:
    """Return the content of a shard and its damage, from one sequential read; damage never raises an error.

    Keys are webdataset's: folder and base name up to the first dot. Members with one key are one sample, adjacent or
    not. If members with one key share an extension, the first are kept and the others form a sample with a
    fault. `size` is the size listed by the store. Raises only what reading the stream raises.
    """
    tape = Tape(stream)
    survey = _Survey()
    for item in walk_tar(tape):
        survey.damaged(item) if isinstance(item, Damage) else survey.add(item)
    samples, faults = survey.samples(), survey.faults()
    if tape.position != size:
        message = f"{tape.position} bytes could be read, {size} are listed; upload the shard again"
        faults.append(ShardFault("of another size than listed", message))
    return ShardScan(
        name,
        tape.position,
        tape.sha256,
        samples,
        tuple(faults),
        survey.notes(),
        dict(sorted(survey.passed_over.items())),
    )


@dataclass
class _Draft:
    """A sample whose members are still being read; `name` is its key as written in the shard."""

    name: str
    key: str
    start: int
    members: dict[str, Member] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    damage: Damage | None = None
    repeated: bool = False

    @property
    def extensions(self) -> set[str]:
        """All its members in the shard, usable or not."""
        return self.members.keys() | self.unusable.keys()

    def absorb(self, other: "_Draft") -> None:
        """Add members of the same key from elsewhere in the shard."""
        self.members |= other.members
        self.unusable |= other.unusable
        self.faults += other.faults
        self.damage = self.damage or other.damage

    def sample(self) -> ShardSample:
        """Return the sample; one without any usable member cannot be processed."""
        faults = self.faults or ([] if self.members else list(self.unusable.values()))
        fault = "; ".join(faults) or None
        return ShardSample(self.key, self.start, tuple(self.members.values()), fault, self.unusable, self.repeated)


@dataclass
class _Survey:
    """Groups the members of a shard into samples, in one pass."""

    drafts: list[_Draft] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    _current: _Draft | None = None
    _by_name: dict[str, list[_Draft]] = field(default_factory=dict)
    _owners: dict[str, _Draft] = field(default_factory=dict)  # by key, since two names may have the same printable key
    _hollow: dict[str, dict[str, str]] = field(default_factory=dict)  # by name: extensions without content
    _damages: list[Damage] = field(default_factory=list)
    _unclaimed: Damage | None = None
    _scattered: int = 0
    _pictures_without_extension: int = 0

    def damaged(self, damage: Damage) -> None:
        """Note damage; the samples before and after it may lack members."""
        self._damages.append(damage)
        if damage.kind == "appended to":
            return
        self._unclaimed = damage
        if self._current:
            self._current.damage = self._current.damage or damage

    def add(self, member: TarMember) -> None:
        """Add a member to its sample; count what webdataset skips."""
        what, split = _passed_over(member), split_name(member.name)
        if what is None and split is None:
            kind = kind_of(member.head)
            if kind is not None and kind.group == "picture":
                self._pictures_without_extension += 1
            else:
                what = "files without an extension"
        if what is not None:
            self.passed_over[what] += 1
        if split is not None and what in _IN_PLACE_OF_CONTENT:
            extension = printable(split[1])
            remedy = _IN_PLACE_OF_CONTENT[what]
            reason = f"its {extension!r} is one of the shard's {what}, which hold no content; {remedy}"
            self._hollow.setdefault(split[0], {})[extension] = reason
        elif split is not None and what is None:
            self._add_to_sample(member, *split)

    def samples(self) -> tuple[ShardSample, ...]:
        """Return the samples in the order of the shard; call it when all members were added."""
        self._close()
        damages = [damage for damage in self._damages if damage.kind != "appended to"]
        often = self._often() if damages else set()
        for draft in self.drafts:
            for extension, reason in self._hollow.get(draft.name, {}).items():
                if extension not in draft.members:
                    draft.unusable[extension] = reason
            if damage := draft.damage or (damages[0] if self._scattered and damages else None):
                for extension in sorted(often - draft.extensions):
                    draft.unusable[extension] = f"incomplete: it lacks {extension}; the shard is {damage.message}"
        return tuple(draft.sample() for draft in self.drafts)

    def faults(self) -> list[ShardFault]:
        """Return what was not read, each with what was kept and the remedy."""
        kept = f"{len(self.drafts)} samples were found; write or upload the shard again to have the rest"
        faults = [
            ShardFault(damage.kind, damage.message if damage.kind in _SELF_EXPLAINED else f"{damage.message}; {kept}")
            for damage in self._damages
            if damage.kind != "appended to"
        ]
        if count := self._pictures_without_extension:
            message = (
                f"{count} pictures without an extension belong to no sample; name the files KEY.EXTENSION "
                "(0001.jpg) and write the shard again"
            )
            faults.append(ShardFault("without an extension", message))
        if count := self.passed_over[_SPARSE]:
            message = f"{count} {_SPARSE} cannot be read; {_IN_PLACE_OF_CONTENT[_SPARSE]}"
            faults.append(ShardFault("sparse", message))
        if not self.drafts and not faults:
            held = ", ".join(f"{count} {what}" for what, count in sorted(self.passed_over.items()))
            remedy = _IN_PLACE_OF_CONTENT[_LINKS] if self._hollow else "write it again"
            message = f"it holds no samples{f', only {held}' if held else ''}; {remedy}, or remove it from the input"
            faults.append(ShardFault("without samples", message))
        return faults

    def notes(self) -> tuple[str, ...]:
        """Return notes for the owner although everything was read."""
        notes = [damage.message for damage in self._damages if damage.kind == "appended to"]
        if self._scattered:
            notes.append(
                f"members of {self._scattered} samples are not adjacent, so they are read in more requests; sort the "
                "tar by name (tar --sort=name)"
            )
        return tuple(notes)

    def _add_to_sample(self, member: TarMember, name: str, suffix: str) -> None:
        doubted = self._unclaimed is not None and _may_be_cut(member)
        draft, extension = self._draft(name, member), printable(suffix)
        if doubted:
            draft.faults.append("its name may be cut short: the header before it is corrupted")
        if extension in draft.members:
            draft.unusable[extension] = (
                f"it has a second {extension!r}, at byte {member.start} after that at byte "
                f"{draft.members[extension].start}; remove one from the shard"
            )
        elif member.present < member.size:
            draft.unusable[extension] = (
                f"incomplete: the shard ends after {member.present} of {member.size} bytes of its {extension!r}; "
                "upload the shard again"
            )
        else:
            draft.members[extension] = Member(extension, member.start, member.offset, member.size)

    def _draft(self, name: str, member: TarMember) -> _Draft:
        """Return the current sample of this key, a new one if the key changes here."""
        if self._current is None or self._current.name != name:
            self._close()
            self._current = _Draft(name, printable(name), member.start, damage=self._unclaimed)
        self._unclaimed = None
        return self._current

    def _close(self) -> None:
        """Merge the adjacent members of one key that were read into their sample, or start one."""
        draft, self._current = self._current, None
        if draft is None:
            return
        siblings = self._by_name.setdefault(draft.name, [])
        if host := next(
            (one for one in (*siblings[:1], *siblings[-1:]) if not one.extensions & draft.extensions), None
        ):
            host.absorb(draft)
            self._scattered += 1
            return
        first = siblings[0] if siblings else self._owners.get(draft.key)
        if first is not None:
            draft.repeated = True
            draft.faults.append(
                f"duplicate key {draft.key!r}: the first is at byte {first.start}, this one at byte {draft.start}; "
                "give it a different key, or remove it from the shard"
            )
        self._owners.setdefault(draft.key, draft)
        siblings.append(draft)
        self.drafts.append(draft)

    def _often(self) -> set[str]:
        """Return the extensions that a tenth of the samples have: samples next to damage may have lost them."""
        whole = [draft for draft in self.drafts if not draft.damage]
        counts = Counter(extension for draft in whole for extension in draft.members)
        return {extension for extension, count in counts.items() if count * 10 >= len(whole)}


def _passed_over(member: TarMember) -> str | None:
    """Return the kind of a member that does not belong to a sample, as a plural; None for one that may."""
    if member.kind == tarfile.DIRTYPE:
        return "folders"
    return aside(member.name) or (None if member.regular else _IRREGULAR.get(member.kind, "entries of unknown types"))


def _may_be_cut(member: TarMember) -> bool:
    """Return whether a member may have had a longer or non-ASCII name in a lost extended header."""
    bare = member.offset - member.start == BLOCK
    return bare and (len(member.name.encode("utf-8", "surrogateescape")) >= _NAME_FIELD_BYTES or "?" in member.name)
