"""The index of the error maps, so that others can train on the supervision with stock tools.

Its bundle holds parquet with one row per supervised sample, and `shards.json`, which lists per input shard the tars
of its error maps, in the order of its samples (`docs/supervision.md`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from infra.bundles import read_rows
from infra.damage import Damages
from infra.receipts import Address, Ledger, Receipt
from pipeline.data.receipt_info import SupervisionIndexInfo
from pipeline.data.records import ARRAYS, OWN_COLUMNS, ROWS
from pipeline.data.units import Selection, Shard, Unit
from pipeline.plan.steps import MapStep
from pipeline.publish.held import Held
from pipeline.publish.parts import index_address, put_rows, standing

UNIT = "supervision"
SHARDS = "shards.json"
VERSION = 1


@dataclass
class _Listed:
    """The entry of an input shard in `shards.json`."""

    shard: str
    input: int  # which of the run's input addresses, counted from 0
    tars: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)  # keys for evaluation, never to train on


@dataclass(frozen=True)
class SupervisionIndex:
    """The committed error maps of the supervision subset."""

    ledger: Ledger
    error_maps: MapStep
    units: Sequence[Unit]
    selection: Selection

    @property
    def address(self) -> Address:
        """The address of this index."""
        return index_address(Held(self.ledger, [(self.error_maps, self.units)]), VERSION, UNIT)

    def commit(self) -> Receipt:
        """Commit the index if it is new; return its receipt."""
        address = self.address
        return standing(self.ledger, address) or self._write(address)

    def _write(self, address: Address) -> Receipt:
        started, attempt, shards = time.time(), self.ledger.begin(address), dict[Shard, _Listed]()
        samples = put_rows(attempt, self._rows(shards))
        listed = [asdict(one) for one in shards.values() if one.tars]
        attempt.put(SHARDS, json.dumps(listed, indent=1).encode())
        stages = {self.error_maps.stage.name: self.error_maps.fingerprint}
        info = SupervisionIndexInfo(samples=samples, started=started, finished=time.time(), stages=stages)
        return attempt.commit({}, info.plain())

    def _rows(self, shards: dict[Shard, _Listed]) -> Iterator[dict[str, Any]]:
        """Yield one row per sample, and fill in `shards.json`.

        Raises:
            DamagedBundleError: after the last row, with every bundle that is damaged.
        """
        damages = Damages()
        for unit in self.units:
            receipt, rows = None, list[dict[str, Any]]()
            with damages.noted():
                address = Address(self.error_maps.stage.name, self.error_maps.fingerprint, unit.name)
                receipt = self.ledger.receipt(address)
                rows = read_rows(self.ledger.read_file(receipt, ROWS)) if receipt is not None else []
            if receipt is None:
                continue  # given up; the next run retries
            listed = shards.setdefault(unit.shard, _Listed(unit.shard.name, unit.shard.address))
            tar = receipt.file(ARRAYS).name
            if receipt.recorded:
                listed.tars.append(tar)
            for row in rows:
                role = self.selection.role(unit.shard.name, row["key"])
                recorded = row["outcome"] == "recorded"
                if recorded and role == "held_out":
                    listed.held_out.append(row["key"])
                yield {
                    **{name: row[name] for name in OWN_COLUMNS},
                    "role": role,
                    "unit": unit.name,
                    "arrays": tar if recorded else None,
                    "member": f"{row['key']}.{self.error_maps.stage.name}.npz" if recorded else None,
                    **_figures(row),
                }
        damages.check()


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in row.items() if name not in OWN_COLUMNS and not isinstance(v, np.ndarray)}
