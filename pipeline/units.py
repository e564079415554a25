"""Units of work: runs of consecutive samples of one shard, and which samples a stage looks at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from infra.bundles import read_rows, write_rows
from infra.receipts import Ledger, Receipt
from infra.shards import Member, ShardSample
from pipeline.config import Supervision
from stages.stage import sample_seed

Role = Literal["supervision", "held_out"]
_HASH_RANGE = float(2**56)


@dataclass(frozen=True)
class Shard:
    """A shard as the inventory saw it: its name in the input, and the digest of its content."""

    address: int  # which of the input's stores
    name: str
    sha256: str
    samples: int

    @property
    def slug(self) -> str:
        """A name for units: the shard's own where that can be, and enough of its digest to tell versions apart."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self.name.removesuffix(".tar")).strip("-")[-60:] or "shard"
        return f"{stem}-{sample_digest(self.address, self.name, self.sha256)}"


@dataclass(frozen=True)
class Unit:
    """Consecutive samples of one shard, of those that a stage looks at: numbers `first` up to `stop`."""

    shard: Shard
    first: int
    stop: int

    @property
    def name(self) -> str:
        """The unit's part of a bundle's address."""
        return f"{self.shard.slug}-{self.first:06d}-{self.stop:06d}"


def sample_digest(*parts: object) -> str:
    """Return eight hexadecimal digits that stand for the parts."""
    return f"{sample_seed(0, json.dumps(parts)):014x}"[:8]


@dataclass(frozen=True)
class Selection:
    """Which samples a stage looks at: all, or those chosen for supervision and evaluation."""

    supervision: Supervision | None = None

    def role(self, shard: str, key: str) -> Role | None:
        """Return what a sample is used for, None if it was not chosen. Decided by hash of the key alone."""
        chosen = self.supervision
        if chosen is None or sample_seed(0, f"choose:{key}") >= chosen.share * _HASH_RANGE:
            return None
        if chosen.held_out_shards is not None:
            if fnmatchcase(shard, chosen.held_out_shards):
                return "held_out"
        elif (
            fnmatchcase(shard, chosen.shards)
            and sample_seed(0, f"hold out:{key}") < chosen.held_out_share * _HASH_RANGE
        ):
            return "held_out"
        return "supervision" if fnmatchcase(shard, chosen.shards) else None

    def share_of(self, shard: str) -> float:
        """Return the share of a shard's samples that the stage can be expected to look at."""
        chosen = self.supervision
        if chosen is None:
            return 1.0
        patterns = (chosen.shards, chosen.held_out_shards)
        return chosen.share if any(fnmatchcase(shard, pattern) for pattern in patterns if pattern) else 0.0

    def trains_on(self, shard: str) -> bool:
        """Return whether a shard can hold samples that a segmenter is trained on."""
        chosen = self.supervision
        if chosen is None:
            return True
        held_out = chosen.held_out_shards is not None and fnmatchcase(shard, chosen.held_out_shards)
        return fnmatchcase(shard, chosen.shards) and not held_out

    def includes(self, shard: str, key: str) -> bool:
        """Return whether the stage looks at this sample."""
        return self.supervision is None or self.role(shard, key) is not None


def cut(shard: Shard, chosen: int, unit_samples: int) -> Iterator[Unit]:
    """Yield the units of the first `chosen` samples that a stage looks at."""
    for first in range(0, chosen, unit_samples):
        yield Unit(shard, first, min(first + unit_samples, chosen))


def outcome_key(sample: ShardSample) -> str:
    """Return how a sample stands in receipts: its key, and for one that only repeats a key also its offset."""
    return f"{sample.key}@{sample.start}" if is_duplicate(sample) else sample.key


def is_duplicate(sample: ShardSample) -> bool:
    """Return whether an earlier sample of the shard has the same key."""
    return sample.fault is not None and "duplicate key" in sample.fault


def write_inventory(samples: tuple[ShardSample, ...], shard: str) -> bytes:
    """Return the inventory of one shard as parquet."""
    rows = [
        {
            "key": sample.key,
            "start": sample.start,
            "stop": sample.stop,
            "members": json.dumps([[m.extension, m.offset, m.size] for m in sample.members]),
            "fault": sample.fault,
        }
        for sample in samples
    ]
    columns = {"key": str, "start": int, "stop": int, "members": str, "fault": str}
    return write_rows(rows, {"shard": shard}, columns)


def read_inventory(ledger: Ledger, receipt: Receipt) -> list[ShardSample]:
    """Return the samples of a shard, as its inventory recorded them."""
    return [
        ShardSample(
            key=row["key"],
            members=tuple(Member(*member) for member in json.loads(row["members"])),
            start=row["start"],
            stop=row["stop"],
            fault=row["fault"],
        )
        for row in read_rows(ledger.read_file(receipt, "samples.parquet"))
    ]
