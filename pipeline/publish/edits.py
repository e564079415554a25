"""The index of edited images: parquet with a row for each edit of a sample, and the tars that hold the images."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.bundles import read_rows
from infra.damage import Damages
from infra.receipts import Address, Ledger, Receipt
from pipeline.data.receipt_info import EditIndexInfo
from pipeline.data.records import FILES, OWN_COLUMNS, ROWS
from pipeline.data.units import Unit
from pipeline.plan.steps import MapStep
from pipeline.publish.held import Held
from pipeline.publish.parts import index_address, put_rows, standing
from stages.edit import Edit
from stages.maps.spaces import column

UNIT = "edits"
VERSION = 1


@dataclass(frozen=True)
class EditIndex:
    """The committed edits of the samples of some units."""

    ledger: Ledger
    step: MapStep
    units: Sequence[Unit]

    def commit(self) -> Receipt:
        """Commit the index if it is new; return its receipt."""
        address = index_address(Held(self.ledger, [(self.step, self.units)]), VERSION, UNIT)
        return standing(self.ledger, address) or self._write(address)

    def _write(self, address: Address) -> Receipt:
        started, attempt = time.time(), self.ledger.begin(address)
        spaces = [column(space) for space in self._spaces]
        changes = [f"change_{where}_{space}" for where in ("inside", "outside") for space in spaces]
        types = {**OWN_COLUMNS, **dict.fromkeys(("unit", "files", "member", "direction"), str)}
        count = put_rows(attempt, self._rows(), {**types, **dict.fromkeys(("magnitude", *changes), float)})
        info = EditIndexInfo(edits=count, started=started, finished=time.time())
        return attempt.commit({}, info.plain())

    @property
    def _spaces(self) -> tuple[str, ...]:
        stage = self.step.stage
        assert isinstance(stage, Edit)
        assert stage.spaces is not None, "a run gives its stages their spaces"
        return stage.spaces

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each edit of each sample, and one for each quarantined sample.

        Raises:
            DamagedBundleError: after the last row, with every bundle that is damaged.
        """
        damages = Damages()
        for unit in self.units:
            rows, tar = list[dict[str, Any]](), ""
            with damages.noted():
                receipt = self.ledger.receipt(Address(self.step.stage.name, self.step.fingerprint, unit.name))
                if receipt is None:
                    continue  # given up; the next run retries
                rows, tar = read_rows(self.ledger.read_file(receipt, ROWS)), receipt.file(FILES).name
            for row in rows:
                named = {**{name: row[name] for name in OWN_COLUMNS}, "unit": unit.name}
                yield from _edits(named, row, tar, self._spaces)
        damages.check()


def _edits(
    named: Mapping[str, Any], row: Mapping[str, Any], tar: str, spaces: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sample, whose columns `named` are the same in all."""
    if row["outcome"] != "recorded":
        yield dict(named)
        return
    for number, edit in enumerate(json.loads(row["edits"])):
        place = {"files": tar, "member": f"{row['key']}.{edit['file']}"}
        what = {"direction": edit["direction"], "magnitude": float(edit["magnitude"])}
        inside = _changes("inside", spaces, row["change_inside"][number])
        yield {**named, **place, **what, **inside, **_changes("outside", spaces, row["change_outside"][number])}


def _changes(where: str, spaces: Sequence[str], change_L: NDArray[np.float32]) -> dict[str, float | None]:
    """Return the columns of changes; null where there are no pixels."""
    return {
        f"change_{where}_{column(space)}": None if np.isnan(change) else float(change)
        for space, change in zip(spaces, change_L, strict=True)
    }
