"""The own index of an optional stage: parquet with the rows that the stage makes of its records."""

from __future__ import annotations

import functools
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
from pipeline.publish.contents import Made, Parts, digest_of
from pipeline.publish.grouping import grouped_with_rows
from pipeline.publish.held import Held
from pipeline.publish.parts import index_address, parquet_of, parts_of, standing
from pipeline.publish.pointer import OwnPointer
from stages.base.stage import OwnIndex

SAMPLES_PER_PART = 5_000
"""Average number of samples whose rows are in one part: a sample may have many rows."""
_TARS = {"arrays": ARRAYS, "files": FILES}


@dataclass(frozen=True)
class OwnIndexOf:
    """The committed records of a stage that has an index of its own, over some units."""

    ledger: Ledger
    step: MapStep
    units: Sequence[Unit]

    def commit(self) -> OwnPointer:
        """Commit the index if it is new; return where it is."""
        held = Held(self.ledger, [(self.step, self.units)])
        address = index_address(held, self.declared.version, self.declared.name)
        receipt = standing(self.ledger, address) or self._write(address, held)
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

    def _write(self, address: Address, held: Held) -> Receipt:
        """Commit the index, with the parts that exist already and others made of bundles.

        Raises:
            DamagedBundleError: after the last part, with every bundle that is damaged.
        """
        started, attempt, damages = time.time(), self.ledger.begin(address), Damages()
        rows, committed, stage = 0, Parts(self.ledger), self.step.stage.name
        for numbers in grouped_with_rows(self.units, functools.partial(held.has, stage), SAMPLES_PER_PART):
            units = [(number, self.units[number]) for number in numbers]
            bundles = held.digest_of(stage, units)
            made_of = digest_of(self.declared.name, self.declared.version, self.step.fingerprint, bundles)
            make = functools.partial(self._made, [unit for _, unit in units], damages)
            part = committed.include(attempt, made_of, make, damages)
            rows += 0 if part is None else part.rows
        damages.check()
        stages = {stage: self.step.fingerprint}
        info = OwnIndexInfo(rows=rows, started=started, finished=time.time(), stages=stages)
        return attempt.commit({}, info.plain())

    def _made(self, units: Sequence[Unit], damages: Damages) -> Made:
        types = {**OWN_COLUMNS, **dict.fromkeys(("unit", *self._tars), str), **self.step.stage.index_columns()}
        rows = list(self._rows(units, damages))
        return Made(parquet_of(rows, types), len(rows), sum(row["outcome"] == "recorded" for row in rows), {})

    def _rows(self, units: Sequence[Unit], damages: Damages) -> Iterator[dict[str, Any]]:
        """Yield the rows of each recorded sample, and one for each quarantined sample; note damaged bundles."""
        stage = self.step.stage
        for unit in units:
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
