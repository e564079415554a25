"""Write the parts of an index: unchanged parts of the published one are copied, others are made.

Memory holds at most one part, and the rows of a few units' bundles.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from infra.bundles import read_table
from infra.damage import Damages
from infra.errors import DamagedBundleError
from infra.receipts import Address, Attempt, Ledger, Receipt, damage_of
from pipeline.data.records import ARRAYS, ROWS
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.steps import MapStep, Steps
from pipeline.publish.blocks import Block, block_of, roles_of
from pipeline.publish.contents import EarlierParts, Part, Slice, digest_of_parts, sliced
from pipeline.publish.held import Held
from pipeline.publish.parts import ROWS_PER_PART, STAGE

_READERS = 8
_READ_TOGETHER = 128
"""Number of units whose bundles are read before their rows are joined."""
_SHARDS_KEPT = 4


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
        """Write all parts, and return their inputs.

        Raises:
            DamagedBundleError: after the last part, with every bundle that is damaged.
        """
        parts, earlier = list[Part](), EarlierParts.from_pointer(self.ledger)
        with ThreadPoolExecutor(_READERS, "bundles") as readers:
            for number, slices in enumerate(sliced(self._with_rows(), ROWS_PER_PART)):
                made_of = digest_of_parts([self.version, self.held.fingerprints], map(self._described, slices))
                name = f"part-{number:05d}.parquet"
                data, recorded = earlier.bytes_of(self.ledger, made_of) or self._made(slices, readers)
                attempt.put(name, data)
                parts.append(Part(name, made_of, recorded, sum(s.stop - s.first for s in slices)))
        self.damages.check()
        return parts

    def _with_rows(self) -> Iterator[tuple[int, Unit]]:
        last = self.steps.last.stage.name
        return ((number, unit) for number, unit in enumerate(self.units) if self.held.has(last, number))

    def _described(self, piece: Slice) -> list[object]:
        """Return the inputs of a slice's rows."""
        shard = piece.unit.shard
        states = [self.held.state(step.stage.name, piece.number) for step in self.steps]
        supervised = [
            (self.supervised[number].name, self.held.state(self.error_maps.stage.name, number))
            for number in self._supervised_of.get(shard, ())
        ]
        chosen, below = self.selection.of_shard(shard.name)
        identity = None if chosen is None else chosen.identity
        return [piece.unit.name, piece.first, piece.stop, states, supervised, identity, str(below)]

    @cached_property
    def _supervised_of(self) -> Mapping[Shard, Sequence[int]]:
        """The numbers of the supervised units, by shard."""
        numbers: dict[Shard, list[int]] = {}
        for number, unit in enumerate(self.supervised):
            numbers.setdefault(unit.shard, []).append(number)
        return numbers

    def _made(self, slices: Sequence[Slice], readers: ThreadPoolExecutor) -> tuple[bytes, int]:
        blocks, remaining = [Block(0, {})], iter(slices)
        while some := list(itertools.islice(remaining, _READ_TOGETHER)):
            shards = dict.fromkeys(piece.unit.shard for piece in some)
            measured = {shard: self._measured(shard, readers) for shard in shards}
            made = readers.map(lambda piece: self._block(piece, measured[piece.unit.shard]), some)  # noqa: B023
            blocks.append(Block.joined([block for block in made if block is not None]))
        block = Block.joined(blocks)
        return block.parquet({"stage": STAGE}), block.recorded

    def _block(self, piece: Slice, measured: _Measured) -> Block | None:
        """Return the rows of a slice, None if a bundle is damaged."""
        tables, receipt, unit = dict[str, Sequence[pa.Table]](), None, piece.unit
        for step in self.steps:
            with self.damages.noted():
                receipt = self.ledger.receipt(Address(step.stage.name, step.fingerprint, unit.name))
                tables[step.stage.name] = [] if receipt is None else [self._table(receipt)]
        last = tables.get(self.steps.last.stage.name)
        if not last or receipt is None:
            return None
        with self.damages.noted():
            if last[0].num_rows != unit.stop - unit.first:
                what = f"{ROWS} has {last[0].num_rows} rows, its unit has {unit.stop - unit.first} samples"
                raise DamagedBundleError([damage_of(receipt, what)])
            table = last[0].slice(piece.first, piece.stop - piece.first)
            tables[self.error_maps.stage.name] = measured.of(table)
            named = {"unit": unit.name, "arrays": receipt.file(ARRAYS).name, "records": receipt.file(ROWS).name}
            return block_of(table, named, roles_of(self.selection, unit.shard.name, table), tables)
        return None

    def _table(self, receipt: Receipt) -> pa.Table:
        return read_table(self.ledger.read_file(receipt, ROWS))

    def _measured(self, shard: Shard, readers: ThreadPoolExecutor) -> _Measured:
        """Return the rows of error maps of a shard."""
        if shard not in self._kept:
            if len(self._kept) >= _SHARDS_KEPT:
                self._kept.pop(next(iter(self._kept)))
            units = [self.supervised[number] for number in self._supervised_of.get(shard, ())]
            tables = readers.map(self._measured_table, units)
            self._kept[shard] = _Measured([table for table in tables if table is not None])
        return self._kept[shard]

    def _measured_table(self, unit: Unit) -> pa.Table | None:
        with self.damages.noted():
            receipt = self.ledger.receipt(Address(self.error_maps.stage.name, self.error_maps.fingerprint, unit.name))
            return None if receipt is None else self._table(receipt)
        return None

    @cached_property
    def _kept(self) -> dict[Shard, _Measured]:
        return {}


class _Measured:
    """The rows of a shard's error maps, and which of their tables has a key."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._tables = tables
        self._table_of = {key: n for n, table in enumerate(tables) for key in table.column("key").to_pylist()}

    def of(self, table: pa.Table) -> list[pa.Table]:
        """Return the tables that have rows of some samples."""
        if not self._tables:
            return []
        keys = table.column("key").to_pylist()
        numbers = {number for key in keys if (number := self._table_of.get(key)) is not None}
        return [self._tables[number] for number in sorted(numbers)]
