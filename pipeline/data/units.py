"""Units of work: consecutive samples of one shard, and the samples that a stage processes."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from infra.bundles import read_rows, write_rows
from infra.receipts import AnyReceipt, Ledger
from infra.shards.shards import Member, RawSample, ShardSample, read_samples
from infra.stores.store import Store
from pipeline.config import Supervision
from stages.base.stage import Record, Sample, sample_seed
from stages.images.members import Members

Role = Literal["supervision", "held_out"]
HASH_RANGE = 2**56


@dataclass(frozen=True)
class Shard:
    """A shard as inventoried: its name in the input, and the digest of its content."""

    address: int  # which of the input's stores
    name: str
    sha256: str
    samples: int
    version: str | None = None  # as listed by the store at the scan; None accepts any

    def read(self, sources: Sequence[Store], samples: Sequence[ShardSample]) -> list[RawSample]:
        """Return some of its samples; raise ShardError if it has changed since the scan."""
        return read_samples(sources[self.address], self.name, samples, self.version)

    @functools.cached_property
    def slug(self) -> str:
        """A name for units: the shard's own if possible, and enough of its digest to distinguish versions."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self.name.removesuffix(".tar")).strip("-")[-60:] or "shard"
        return f"{stem}-{sample_digest(self.address, self.name, self.sha256)}"


@dataclass(frozen=True)
class Unit:
    """Consecutive samples of one shard, of those that a stage processes: numbers `first` up to `stop`."""

    shard: Shard
    first: int
    stop: int

    @property
    def name(self) -> str:
        """The unit's part of a bundle's address."""
        return f"{self.shard.slug}-{self.first:06d}-{self.stop:06d}"


def sample_digest(*parts: object, digits: int = 8) -> str:
    """Return at most 14 hexadecimal digits that represent the parts."""
    return f"{sample_seed(0, json.dumps(parts)):014x}"[:digits]


@dataclass(frozen=True)
class Selection:
    """The samples that a stage processes: all, or those chosen for supervision and evaluation."""

    supervision: Supervision | None = None
    below: Mapping[str, int] | None = None
    """If a number of samples is requested, the hashes below which they are chosen, by shard; None: all."""
    left: int | None = None  # how many samples of unread shards may be chosen; None: any number

    def role(self, shard: str, key: str) -> Role | None:
        """Return the role of a sample, None if it was not chosen. Decided by the hash of the key alone."""
        chosen = self.supervision
        if chosen is None or choice_hash(key) >= self._below(chosen, shard):
            return None
        if chosen.held_out_shards is not None:
            if fnmatchcase(shard, chosen.held_out_shards):
                return "held_out"
        elif (
            fnmatchcase(shard, chosen.shards) and sample_seed(0, f"hold out:{key}") < chosen.held_out_share * HASH_RANGE
        ):
            return "held_out"
        return "supervision" if fnmatchcase(shard, chosen.shards) else None

    def share_of(self, shard: str) -> float:
        """Return the expected share of a shard's samples that the stage processes."""
        chosen = self.supervision
        if chosen is None:
            return 1.0
        patterns = (chosen.shards, chosen.held_out_shards)
        if not any(fnmatchcase(shard, pattern) for pattern in patterns if pattern):
            return 0.0
        return 1.0 if chosen.share is None else chosen.share

    def _below(self, chosen: Supervision, shard: str) -> float:
        if chosen.share is not None:
            return chosen.share * HASH_RANGE
        return HASH_RANGE if self.below is None else self.below.get(shard, 0)

    def of_shard(self, shard: str) -> tuple[Supervision | None, float]:
        """Return what decides which samples of one shard are chosen."""
        return self.supervision, math.inf if self.supervision is None else self._below(self.supervision, shard)

    def trains_on(self, shard: str) -> bool:
        """Return whether a shard can hold samples that a segmenter is trained on."""
        chosen = self.supervision
        if chosen is None:
            return True
        held_out = chosen.held_out_shards is not None and fnmatchcase(shard, chosen.held_out_shards)
        return fnmatchcase(shard, chosen.shards) and not held_out

    def may_include(self, shard: str) -> bool:
        """Return whether the stage processes any sample of a shard, judging by its name."""
        return bool(self.share_of(shard)) and (self.below is None or shard in self.below)

    def includes(self, shard: str, key: str) -> bool:
        """Return whether the stage processes this sample."""
        return self.supervision is None or self.role(shard, key) is not None


def choice_hash(key: str) -> int:
    """Return the number that decides whether a sample is chosen, below `HASH_RANGE`; small ones are chosen first."""
    return sample_seed(0, f"choose:{key}")


def cut(shard: Shard, chosen: int, unit_samples: int) -> Iterator[Unit]:
    """Yield the units of the first `chosen` samples that a stage processes."""
    for first in range(0, chosen, unit_samples):
        yield Unit(shard, first, min(first + unit_samples, chosen))


def outcome_key(sample: ShardSample) -> str:
    """Return a sample's name in receipts: its key, and for a repeated key also its offset."""
    return f"{sample.key}@{sample.start}" if sample.repeated else sample.key


def sample_of(raw: RawSample, shard: str, records: Mapping[str, Record] | None = None) -> Sample:
    """Return a sample in the stages' form, with the records of earlier stages."""
    return Sample(raw.key, shard, Members(raw.members, raw.unusable), records or {})


def write_inventory(samples: tuple[ShardSample, ...], shard: str) -> bytes:
    """Return the inventory of one shard as parquet."""
    rows = [
        {
            "key": sample.key,
            "start": sample.start,
            "members": json.dumps([[m.extension, m.start, m.offset, m.size] for m in sample.members]),
            "fault": sample.fault,
            "unusable": json.dumps(sample.unusable) if sample.unusable else None,
            "repeated": sample.repeated,
        }
        for sample in samples
    ]
    columns = {"key": str, "start": int, "members": str, "fault": str, "unusable": str, "repeated": bool}
    return write_rows(rows, {"shard": shard}, columns)


def read_inventory(ledger: Ledger, receipt: AnyReceipt) -> list[ShardSample]:
    """Return the samples of a shard, as recorded in its inventory."""
    return [
        ShardSample(
            key=row["key"],
            start=row["start"],
            members=tuple(Member(*member) for member in json.loads(row["members"])),
            fault=row["fault"],
            unusable=json.loads(row["unusable"] or "{}"),
            repeated=row["repeated"],
        )
        for row in read_rows(ledger.read_file(receipt, "samples.parquet"))
    ]
