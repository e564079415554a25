"""The codes of a published result, in the order of its index: memory holds those of one unit at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infra.receipts import Address, Ledger, Receipt
from pipeline.config import RunConfig
from pipeline.data.records import read_records
from pipeline.data.stores import Stores
from pipeline.errors import RunError
from pipeline.plan.graph import GRAPH
from pipeline.publish.pointer import Pointer, address_in, read_pointer
from pipeline.publish.rows import IndexRows, having
from stages.inversion.tuned import is_tuned


@dataclass(frozen=True)
class ImageCodes:
    """The codes of one image: `w_plus [num_ws, w_dim]` float32."""

    shard: str
    key: str
    w_plus: NDArray[np.float32]


@dataclass(frozen=True)
class PublishedCodes:
    """A published result."""

    config: RunConfig
    ledger: Ledger
    pointer: Pointer
    index: Receipt

    @classmethod
    def from_config(cls, config: RunConfig) -> PublishedCodes:
        """Return what a run has published; raise `RunError` if it has published nothing, or no image."""
        ledger = Stores.from_config(config).ledger
        pointer = read_pointer(ledger)
        index = None if pointer is None else ledger.receipt(address_in(ledger, pointer.receipt))
        if pointer is None or index is None:
            raise RunError(f"{ledger.store.url} holds no published result: `invertmill run` comes first")
        published = cls(config, ledger, pointer, index)
        if not published.images:
            raise RunError(f"{ledger.store.url} publishes no inverted image, so there is nothing to export")
        return published

    @cached_property
    def images(self) -> int:
        """The number of inverted images."""
        return sum(len(keys) for _, keys in self._units())

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of each w_plus, `(num_ws, w_dim)`."""
        return next(iter(self)).w_plus.shape

    @property
    def deltas(self) -> bool:
        """Whether images have deltas or tuned weights, which formats of w_plus alone leave out; judged by a unit."""
        unit, keys = next(self._units())
        records = read_records(self.ledger.read_file, self._receipt(unit), dict(keys))
        named = {name for record in records.values() for name in record.arrays}
        return is_tuned(named) or any(name.endswith((".delta", ".codes")) for name in named)

    def __iter__(self) -> Iterator[ImageCodes]:
        """Yield the codes of every inverted image."""
        for unit, keys in self._units():
            records = read_records(self.ledger.read_file, self._receipt(unit), keys, arrays=())
            for key, shard in keys.items():
                yield ImageCodes(shard, key, np.asarray(records[key].row["w_plus"], np.float32))

    def _units(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield each unit with its inverted images: shard by key, in order."""
        for table in IndexRows(self.ledger, self.index).tables(("key", "shard", "unit", "outcome")):
            units: dict[str, dict[str, str]] = {}
            for row in table.filter(having(table, outcome="recorded")).to_pylist():
                units.setdefault(row["unit"], {})[row["key"]] = row["shard"]
            yield from units.items()

    def _receipt(self, unit: str) -> Receipt:
        name = GRAPH.last.name
        return self.ledger.required(Address(name, self.pointer.stages[name], unit))
