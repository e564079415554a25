"""Write the parts of an index: those that exist already are included, others are made from committed bundles.

Memory holds at most one part, and the rows of a few units' bundles.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from infra.bundles import read_table, write_table
from infra.damage import Damages
from infra.errors import DamagedBundleError
from infra.receipts import Address, Attempt, Ledger, Receipt, damage_of
from pipeline.data.records import ARRAYS, ROWS
from pipeline.data.tally import Tally
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.steps import MapStep, Steps
from pipeline.publish.blocks import (
    NAMED,
    OWN,
    aligned,
    empty,
    figures_of,
    recorded_in,
    roles_of,
    side_by_side,
    stacked,
)
from pipeline.publish.contents import STAGE, Made, Part, Parts, digest_of
from pipeline.publish.grouping import grouped_with_rows
from pipeline.publish.held import Held

_READERS = 8
_READ_TOGETHER = 256
"""Number of units whose bundles are read before their rows are joined."""
_SHARDS_KEPT = 4


@dataclass(frozen=True)
class _Bundles:
    """What is committed for a unit: the receipts and rows of the stages that have one; complete for the last stage."""

    unit: Unit
    receipts: Mapping[str, Receipt]
    tables: Mapping[str, pa.Table]


@dataclass
class PartsWriter:
    """Makes the rows of an index from committed bundles."""

    ledger: Ledger
    steps: Steps
    error_maps: MapStep
    units: Sequence[Unit]
    supervised: Sequence[Unit]
    selection: Selection
    held: Held
    version: int
    damages: Damages = field(default_factory=Damages)

    def put(self, attempt: Attempt) -> list[Part]:
        """Include all parts in an attempt, and return them.

        Raises:
            DamagedBundleError: after the last part, with every bundle that is damaged.
        """
        parts, committed, last = list[Part](), Parts(self.ledger), self.steps.last.stage.name
        with ThreadPoolExecutor(_READERS, "bundles") as readers:
            for numbers in grouped_with_rows(self.units, functools.partial(self.held.has, last)):
                made_of = digest_of(self.version, self.held.fingerprints, *self._described(numbers))
                make = functools.partial(self._made, numbers, readers)
                part = committed.include(attempt, made_of, make, self.damages)
                parts += [] if part is None else [part]
        self.damages.check()
        return parts

    def _described(self, numbers: Sequence[int]) -> Iterator[object]:
        """Yield everything that the rows of some units are made of."""
        for step in self.steps:
            yield self.held.digest_of(step.stage.name, [(number, self.units[number]) for number in numbers])
        for shard in dict.fromkeys(self.units[number].shard for number in numbers):
            chosen, below = self.selection.of_shard(shard.name)
            yield self._supervision_digest(shard), None if chosen is None else chosen.identity, str(below)

    def _supervision_digest(self, shard: Shard) -> str:
        numbered = [(number, self.supervised[number]) for number in self._supervised_of.get(shard, ())]
        return self.held.digest_of(self.error_maps.stage.name, numbered)

    @cached_property
    def _supervised_of(self) -> Mapping[Shard, Sequence[int]]:
        """The numbers of the supervised units, by shard."""
        numbers = defaultdict[Shard, list[int]](list)
        for number, unit in enumerate(self.supervised):
            numbers[unit.shard].append(number)
        return numbers

    @cached_property
    def _templates(self) -> Mapping[str, pa.Schema]:
        """The columns of each stage's rows, as its first unit with a recorded sample has them."""
        every = [(step, self.units) for step in self.steps] + [(self.error_maps, self.supervised)]
        return {step.stage.name: self._template(step, units) for step, units in every}

    def _template(self, step: MapStep, units: Sequence[Unit]) -> pa.Schema:
        for number, unit in enumerate(units):
            if self.held.has(step.stage.name, number):
                with self.damages.noted():
                    receipt = self.ledger.receipt(_address(step, unit))
                    if receipt is not None and receipt.head.recorded:
                        return self._rows(step, receipt).schema
        return pa.schema([("key", pa.string())])

    def _made(self, numbers: Sequence[int], readers: ThreadPoolExecutor) -> Made:
        last, tables = self.steps.last.stage.name, list[pa.Table]()
        tallies: dict[str, list[Tally]] = {step.stage.name: [] for step in self.steps}
        remaining = iter(numbers)
        while some := [self.units[number] for number in itertools.islice(remaining, _READ_TOGETHER)]:
            bundles = list(readers.map(self._read, some))
            for stage, sums in tallies.items():
                with self.damages.noted():
                    sums.append(Tally.from_heads(b.receipts[stage].head for b in bundles if stage in b.receipts))
            if complete := [bundle for bundle in bundles if last in bundle.tables]:
                tables.append(self._block(complete, readers))
        figures = {stage: figures_of(schema) for stage, schema in self._templates.items()}
        table = stacked(tables, empty(figures).schema)
        numbered = [(number, self.units[number]) for number in numbers]
        return Made(
            data=write_table(dict(zip(table.column_names, _arrays(table), strict=True)), {"stage": STAGE}),
            rows=table.num_rows,
            recorded=recorded_in(table),
            tallies={self.held.digest_of(stage, numbered): Tally.summed(sums) for stage, sums in tallies.items()},
        )

    def _read(self, unit: Unit) -> _Bundles:
        """Return the bundles of a unit; damaged ones are noted and omitted."""
        receipts, tables = dict[str, Receipt](), dict[str, pa.Table]()
        for step in self.steps:
            with self.damages.noted():
                receipt = self.ledger.receipt(_address(step, unit))
                if receipt is not None:
                    receipts[step.stage.name] = receipt
                    tables[step.stage.name] = self._checked(step, receipt, unit)
        return _Bundles(unit, receipts, tables)

    def _checked(self, step: MapStep, receipt: Receipt, unit: Unit) -> pa.Table:
        table, samples = self._rows(step, receipt), unit.stop - unit.first
        if table.num_rows != samples:
            what = f"{ROWS} has {table.num_rows} rows, its unit has {samples} samples"
            raise DamagedBundleError([damage_of(receipt, what)])
        return table

    def _rows(self, step: MapStep, receipt: Receipt) -> pa.Table:
        """Return the rows of a bundle; of all but the last stage, without the columns that the last one has too."""
        twice = () if step.stage.name == self.steps.last.stage.name else OWN[1:]
        return read_table(self.ledger.read_file(receipt, ROWS), without=twice)

    def _block(self, bundles: Sequence[_Bundles], readers: ThreadPoolExecutor) -> pa.Table:
        """Return the rows of some units."""
        last = self.steps.last.stage.name
        rows = self._stacked(last, bundles)
        figures = {
            step.stage.name: rows if step.stage.name == last else self._aligned(step.stage.name, bundles, rows)
            for step in self.steps
        }
        figures[self.error_maps.stage.name] = self._measured(bundles, rows, readers)
        return side_by_side(rows, self._named(bundles, rows), figures)

    def _stacked(self, stage: str, bundles: Sequence[_Bundles]) -> pa.Table:
        tables = [bundle.tables[stage] for bundle in bundles if stage in bundle.tables]
        return stacked(tables, self._templates[stage])

    def _aligned(self, stage: str, bundles: Sequence[_Bundles], rows: pa.Table) -> pa.Table:
        """Return the rows of an earlier stage: usually of the same keys, otherwise they are found unit by unit."""
        whole = self._stacked(stage, bundles)
        if whole.column("key").equals(rows.column("key")):
            return whole
        found, first = list[pa.Table](), 0
        for bundle in bundles:
            keys = rows.column("key").slice(first, bundle.unit.stop - bundle.unit.first)
            found.append(aligned(bundle.tables.get(stage), keys, self._templates[stage]))
            first += len(keys)
        return stacked(list(map(_without_own, found)), figures_of(self._templates[stage]))

    def _measured(self, bundles: Sequence[_Bundles], rows: pa.Table, readers: ThreadPoolExecutor) -> pa.Table:
        """Return the rows of error maps, found shard by shard: their units are cut differently."""
        template = self._templates[self.error_maps.stage.name]
        found, first = list[pa.Table](), 0
        for shard, of_shard in itertools.groupby(bundles, key=lambda bundle: bundle.unit.shard):
            samples = sum(bundle.unit.stop - bundle.unit.first for bundle in of_shard)
            table = aligned(self._of_shard(shard, readers), rows.column("key").slice(first, samples), template)
            found.append(_without_own(table))
            first += samples
        return stacked(found, figures_of(template))

    def _of_shard(self, shard: Shard, readers: ThreadPoolExecutor) -> pa.Table:
        """Return the rows of error maps of a shard."""
        if shard not in self._kept:
            if len(self._kept) >= _SHARDS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            units = [self.supervised[number] for number in self._supervised_of.get(shard, ())]
            tables = [table for table in readers.map(self._measured_rows, units) if table is not None]
            self._kept[shard] = stacked(tables, self._templates[self.error_maps.stage.name])
        return self._kept[shard]

    def _measured_rows(self, unit: Unit) -> pa.Table | None:
        with self.damages.noted():
            receipt = self.ledger.receipt(_address(self.error_maps, unit))
            return None if receipt is None else self._rows(self.error_maps, receipt)
        return None

    @cached_property
    def _kept(self) -> dict[Shard, pa.Table]:
        return {}

    def _named(self, bundles: Sequence[_Bundles], rows: pa.Table) -> dict[str, pa.Array]:
        """Return the columns that lead to each row's unit, role and files."""
        columns: dict[str, list[str | None]] = {name: [] for name in NAMED}
        last, keys = self.steps.last.stage.name, rows.column("key").to_pylist()
        for bundle in bundles:
            unit, receipt = bundle.unit, bundle.receipts[last]
            first, count = len(columns["unit"]), unit.stop - unit.first
            roles = roles_of(self.selection, unit.shard.name, keys[first : first + count])
            files = {"arrays": receipt.file(ARRAYS).name, "records": receipt.file(ROWS).name}
            for name, value in {"unit": unit.name, **files}.items():
                columns[name] += [value] * count
            columns["role"] += roles
        return {name: pa.array(values, pa.string()) for name, values in columns.items()}


def _address(step: MapStep, unit: Unit) -> Address:
    return Address(step.stage.name, step.fingerprint, unit.name)


def _without_own(table: pa.Table) -> pa.Table:
    return table.select([name for name in table.column_names if name not in OWN])


def _arrays(table: pa.Table) -> list[pa.Array]:
    return [column.combine_chunks() for column in table.columns]
