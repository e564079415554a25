"""Samples with the records of earlier stages: the one reader of shards and bundles, a unit at a time."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from infra.errors import DamagedBundleError, NotFoundError, ShardError
from infra.receipts import Address, Ledger, Receipt, damage_of
from infra.shards.shards import RawSample, ShardSample
from infra.stores.store import Store
from pipeline.data.inventory import committed_samples
from pipeline.data.records import read_records
from pipeline.data.units import Role, Selection, Shard, Unit, sample_of
from stages.base.stage import Record, Sample

Members = Callable[[Collection[str]], Collection[str]]
"""Returns the needed members of a sample, given the extensions of all."""

_INVENTORIES_KEPT = 8


def no_members(_extensions: Collection[str]) -> Collection[str]:
    """Select no member: shards are not read."""
    return ()


@dataclass(frozen=True)
class Chosen:
    """A sample that was chosen by its key."""

    unit: Unit
    key: str
    role: Role | None


@dataclass(frozen=True, eq=False)
class Cut:
    """The units of a stage: the samples that it processes, and how they are cut."""

    selection: Selection
    units: Sequence[Unit]

    @functools.cached_property
    def _by_shard(self) -> dict[Shard, list[Unit]]:
        by_shard: dict[Shard, list[Unit]] = {}
        for unit in self.units:
            by_shard.setdefault(unit.shard, []).append(unit)
        return by_shard

    def unit_at(self, shard: Shard, position: int) -> Unit | None:
        """Return the unit that holds a shard's sample at a position among those that the stage processes."""
        units = self._by_shard.get(shard, [])
        at = bisect_right(units, position, key=lambda unit: unit.first) - 1
        return units[at] if at >= 0 and position < units[at].stop else None


@dataclass(frozen=True, eq=False)
class Recorded:
    """The needed part of an earlier stage's records.

    `cut` is given if the stage's units differ from those that are read. A sample may lack the record of an `optional`
    stage; without that of any other stage it is not yielded. `rows`, `arrays` and `files` are those of `read_records`.
    """

    stage: str
    fingerprint: str
    cut: Cut | None = None
    optional: bool = False
    rows: bool = True
    arrays: Container[str] | None = None
    files: bool = False


class Reader:
    """Reads samples from shards, and the records of earlier stages from bundles.

    Of each stage one unit is in memory. Threads may share a reader.

    Args:
        ledger: holds the bundles.
        sources: the input's stores.
        inventories: the inventory's unit of each shard.
        selection: the samples that units are cut from.
        tolerant: whether samples with a missing bundle get a reason, and those whose shard has left the
            input, or has changed, no members. Otherwise that is an error.
    """

    def __init__(
        self,
        ledger: Ledger,
        sources: Sequence[Store],
        inventories: Mapping[Shard, str],
        selection: Selection | None = None,
        *,
        tolerant: bool = False,
    ) -> None:
        self._ledger, self._sources, self._inventories = ledger, sources, inventories
        self._selection, self._tolerant = selection or Selection(), tolerant
        self._inventory = functools.lru_cache(_INVENTORIES_KEPT)(self._read_inventory)
        self._selected = functools.lru_cache(_INVENTORIES_KEPT)(self._select)
        self._positions = functools.lru_cache(_INVENTORIES_KEPT)(self._locate)
        self._last: dict[tuple[str, str], tuple[str, bytes]] = {}  # the last file of each name, of stages with a cut

    def listed(self, unit: Unit) -> list[ShardSample]:
        """Return the samples of a unit as the inventory has them, including faulty ones; raise `DamagedBundleError`."""
        return self._selected(unit.shard)[unit.first : unit.stop]

    def chosen(self, unit: Unit, keys: Collection[str]) -> list[ShardSample]:
        """Return samples of a unit by their keys, in the order of the keys."""
        by_key = {sample.key: sample for sample in self.listed(unit) if not sample.repeated}
        return [by_key[key] for key in keys]

    def read(
        self,
        unit: Unit,
        samples: Sequence[ShardSample] | None = None,
        records: Sequence[Recorded] = (),
        members: Members | None = None,
    ) -> Iterator[tuple[ShardSample, Sample | str]]:
        """Yield samples of a unit in order, each in the stages' form, or the reason why it cannot be processed.

        Args:
            unit: the unit to read, also for the bundles of stages without a `cut`.
            samples: some of `listed`; None reads all.
            records: the earlier stages whose records the samples carry.
            members: the members to read, adjacent ones with one ranged read; None reads all.

        Raises:
            DamagedBundleError: a bundle is damaged or, unless the reader is tolerant, gone.
            ShardError: the shard has changed since it was scanned; not raised by a tolerant reader.
        """
        listed = self.listed(unit) if samples is None else samples

        def units_of(sample: ShardSample) -> list[Unit | None]:
            return [self._unit_of(unit, sample, recorded) for recorded in records]

        for units, group in itertools.groupby(listed, key=units_of):
            bundles = [self._bundle(recorded, at) for recorded, at in zip(records, units, strict=True)]
            yield from self._group(unit.shard, list(group), bundles, members)

    def _group(
        self, shard: Shard, listed: Sequence[ShardSample], bundles: Sequence[_Bundle], members: Members | None
    ) -> Iterator[tuple[ShardSample, Sample | str]]:
        """Yield samples whose records are in the same bundles."""
        reasons = [_reason(sample, bundles) for sample in listed]
        good = [sample for sample, reason in zip(listed, reasons, strict=True) if reason is None]
        keys = {sample.key for sample in good}
        records = {bundle.recorded.stage: bundle.records(keys) for bundle in bundles}
        raw = iter(self._raw(shard, good, members))
        for sample, reason in zip(listed, reasons, strict=True):
            if reason is not None:
                yield sample, reason
                continue
            of_sample = {stage: of_stage[sample.key] for stage, of_stage in records.items() if sample.key in of_stage}
            yield sample, sample_of(next(raw), shard.name, of_sample)

    def _raw(self, shard: Shard, samples: Sequence[ShardSample], members: Members | None) -> list[RawSample]:
        wanted = samples if members is None else [_narrowed(sample, members) for sample in samples]
        gone = [RawSample(sample.key, {}) for sample in samples]
        if self._tolerant and shard.address >= len(self._sources):
            return gone
        try:
            return shard.read(self._sources, wanted)
        except (NotFoundError, ShardError):
            if not self._tolerant:
                raise
            return gone

    def _bundle(self, recorded: Recorded, unit: Unit | None) -> _Bundle:
        if unit is None:
            return _Bundle(recorded, None, self._ledger.read_file)
        address = Address(recorded.stage, recorded.fingerprint, unit.name)
        may_lack = self._tolerant or recorded.optional
        receipt = self._ledger.receipt(address) if may_lack else self._ledger.required(address)
        return _Bundle(recorded, receipt, self._ledger.read_file if recorded.cut is None else self._once)

    def _once(self, receipt: Receipt, filename: str) -> bytes:
        """Return a file of a bundle; units that are cut differently may request it twice in a row."""
        name, slot = receipt.file(filename).name, (receipt.stage, filename)
        last = self._last.get(slot)  # another thread may replace it meanwhile
        if last is None or last[0] != name:
            last = self._last[slot] = name, self._ledger.read_file(receipt, filename)
        return last[1]

    def _unit_of(self, unit: Unit, sample: ShardSample, recorded: Recorded) -> Unit | None:
        if recorded.cut is None:
            return unit
        position = self._positions(unit.shard, recorded.cut).get(sample.start)
        return None if position is None else recorded.cut.unit_at(unit.shard, position)

    def _locate(self, shard: Shard, cut: Cut) -> dict[int, int]:
        included = (s.start for s in self._inventory(shard) if cut.selection.includes(shard.name, s.key))
        return {start: position for position, start in enumerate(included)}

    def _select(self, shard: Shard) -> list[ShardSample]:
        return [sample for sample in self._inventory(shard) if self._selection.includes(shard.name, sample.key)]

    def _read_inventory(self, shard: Shard) -> list[ShardSample]:
        return committed_samples(self._ledger, self._inventories[shard])


@dataclass(frozen=True)
class _Bundle:
    """The commit of a stage for a unit; empty without a receipt."""

    recorded: Recorded
    receipt: Receipt | None
    content: Callable[[Receipt, str], bytes]

    def reason(self, key: str) -> str | None:
        """Return why a sample has no record, None if it has one or may lack it."""
        if self.recorded.optional:
            return None
        if self.receipt is None:
            return f"{self.recorded.stage}: its bundle is gone"
        if key not in self.receipt.outcomes:
            raise DamagedBundleError([damage_of(self.receipt, f"it has no outcome for {key}")])
        return self.receipt.outcomes[key]

    def records(self, keys: Container[str]) -> dict[str, Record]:
        if self.receipt is None:
            return {}
        wanted = self.recorded
        return read_records(
            self.content, self.receipt, keys, rows=wanted.rows, arrays=wanted.arrays, files=wanted.files
        )


def _reason(sample: ShardSample, bundles: Sequence[_Bundle]) -> str | None:
    """Return why a sample cannot be processed, if that is known before it is read."""
    if sample.fault is not None:
        return f"inventory: {sample.fault}"
    return next((reason for bundle in bundles if (reason := bundle.reason(sample.key)) is not None), None)


def _narrowed(sample: ShardSample, members: Members) -> ShardSample:
    """Return a sample without the unneeded members."""
    wanted = members([*(member.extension for member in sample.members), *sample.unusable])
    return replace(sample, members=tuple(member for member in sample.members if member.extension in wanted))
