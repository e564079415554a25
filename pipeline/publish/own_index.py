"""The own index of an optional stage: parquet with the rows that the stage makes of its records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra.bundles import read_rows
from infra.damage import Damages
from infra.receipts import Address, Ledger, Receipt
from pipeline.data.receipt_info import OwnIndexInfo
from pipeline.data.records import ARRAYS, FILES, OWN_COLUMNS, ROWS
from pipeline.data.units import Unit
from pipeline.plan.steps import MapStep
from pipeline.publish.held import Held
from pipeline.publish.parts import index_address, parts_of, put_rows, standing
from pipeline.publish.pointer import OwnPointer
from stages.base.stage import OwnIndex

_TARS = {"arrays": ARRAYS, "files": FILES}


@dataclass(frozen=True)
class OwnIndexOf:
    """The committed records of a stage that has an index of its own, over some units."""

    ledger: Ledger
    step: MapStep
    units: Sequence[Unit]

    def commit(self) -> OwnPointer:
        """Commit the index if it is new; return where it is."""
        address = index_address(Held(self.ledger, [(self.step, self.units)]), self.declared.version, self.declared.name)
        receipt = standing(self.ledger, address) or self._write(address)
        return OwnPointer(
            index=parts_of(receipt), receipt=receipt.address.receipt_name, fingerprint=self.step.fingerprint
        )

    @property
    def declared(self) -> OwnIndex:
        """The stage's declaration."""
        declared = self.step.stage.own_index
        assert declared is not None, "the caller asks stages that declare one"
        return declared

    @property
    def _tars(self) -> dict[str, str]:
        """The columns that name the tars of the stage's records, and the files of a bundle."""
        return {part: _TARS[part] for part in sorted(self.step.stage.keeps)}

    def _write(self, address: Address) -> Receipt:
        started, attempt = time.time(), self.ledger.begin(address)
        types = {**OWN_COLUMNS, **dict.fromkeys(("unit", *self._tars), str), **self.step.stage.index_columns()}
        info = OwnIndexInfo(rows=put_rows(attempt, self._rows(), types), started=started, finished=time.time())
        return attempt.commit({}, info.plain())

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of each recorded sample, and one for each quarantined sample.

        Raises:
            DamagedBundleError: after the last row, with every bundle that is damaged.
        """
        stage, damages = self.step.stage, Damages()
        for unit in self.units:
            rows, tars = list[dict[str, Any]](), dict[str, str]()
            with damages.noted():
                receipt = self.ledger.receipt(Address(stage.name, self.step.fingerprint, unit.name))
                if receipt is None:
                    continue  # given up; the next run retries
                rows = read_rows(self.ledger.read_file(receipt, ROWS))
                tars = {column: receipt.file(name).name for column, name in self._tars.items()}
            for row in rows:
                own = {**{name: row[name] for name in OWN_COLUMNS}, "unit": unit.name}
                if row["outcome"] != "recorded":
                    yield own
                    continue
                values = {name: value for name, value in row.items() if name not in OWN_COLUMNS}
                for of_sample in stage.index_rows(row["key"], values):
                    yield {**own, **tars, **of_sample}
        damages.check()
