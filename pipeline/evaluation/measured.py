"""The figures of an evaluation, image by image, read from the bundles of its methods."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from infra.bundles import read_rows
from infra.receipts import Address, Receipt
from pipeline.data.receipt_info import UnitInfo
from pipeline.data.records import ROWS
from pipeline.evaluation.methods import Compared
from pipeline.evaluation.samples import Name
from pipeline.evaluation.statistics import Values
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep
from stages.invert import Invert
from stages.maps.spaces import column


@dataclass(frozen=True)
class ImageRow:
    """One image by one method; `bundle` names the unit whose bundle holds its codes."""

    method: str
    shard: str
    key: str
    psnr_db: float
    lpips: float
    steps: float
    share_first: float  # of pixels in the most editable space
    fingerprint: str
    bundle: str
    editability: float | None = None  # None without edits
    strength: float | None = None
    leakage: float | None = None
    realism: float | None = None

    @property
    def name(self) -> Name:
        """The image."""
        return self.shard, self.key


@dataclass(frozen=True)
class Measured:
    """A method with the figures of its images; `seconds_per_image` is of one worker, None without timings."""

    method: Compared
    rows: tuple[ImageRow, ...]
    quarantined: int
    missing: int  # units without a bundle
    seconds_per_image: float | None
    devices: tuple[str, ...]  # with the precision: `cpu, bf16`

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its inversions."""
        return self.method.steps[Invert].fingerprint

    @functools.cached_property
    def psnr_db(self) -> Values:
        """PSNR by image."""
        return {row.name: row.psnr_db for row in self.rows}

    @functools.cached_property
    def lpips(self) -> Values:
        """Perceptual error by image."""
        return {row.name: row.lpips for row in self.rows}

    @functools.cached_property
    def editability(self) -> Values:
        """Editability by image, of the images whose edits are measured."""
        return {row.name: row.editability for row in self.rows if row.editability is not None}

    @functools.cached_property
    def share_first(self) -> Values:
        """The share of pixels in the most editable space by image."""
        return {row.name: row.share_first for row in self.rows}

    @property
    def steps(self) -> float | None:
        """The mean number of steps; passes of an encoder."""
        return fmean(row.steps for row in self.rows) if self.rows else None


def measured(method: Compared) -> Measured:
    """Return what is committed of a method."""
    step, plan = method.steps[Invert], method.plan
    receipts = [plan.ledger.receipt(_address(step, unit.name)) for unit in method.samples.units]
    there = [receipt for receipt in receipts if receipt is not None]
    infos = [UnitInfo.from_receipt(receipt) for receipt in there]
    outcomes = sum(len(receipt.outcomes) for receipt in there)
    edits = _edits(method)
    rows = tuple(
        edits[row.name].of(row) if row.name in edits else row
        for row in itertools.chain.from_iterable(_rows(method, receipt) for receipt in there)
    )
    if method.editing is not None:
        receipts += [plan.ledger.receipt(_address(method.editing, unit.name)) for unit in method.samples.units]
    return Measured(
        method=method,
        rows=rows,
        quarantined=outcomes - len(rows),
        missing=sum(receipt is None for receipt in receipts),
        seconds_per_image=sum(info.computed_s for info in infos) / outcomes if outcomes else None,
        devices=tuple(sorted({info.computed_on for info in infos})),
    )


def occluded_names(plan: Plan) -> frozenset[Name] | None:
    """Return the images with a known occluder, as their error maps recorded it; None if no occluder is known."""
    if plan.config.truth is None:
        return None
    step = plan.error_maps()
    found, known = set[Name](), False
    for unit in plan.units(plan.inventories(), step.selection):
        receipt = plan.ledger.receipt(_address(step, unit.name))
        for row in read_rows(plan.ledger.read_file(receipt, ROWS)) if receipt is not None else ():
            known |= row.get("occluded") is not None
            found |= {(row["shard"], row["key"])} if row.get("occluded") else set()
    return frozenset(found) if known else None


@dataclass(frozen=True)
class _Edited:
    """The figures of the edits of an image."""

    editability: float
    strength: float
    leakage: float | None
    realism: float

    def of(self, row: ImageRow) -> ImageRow:
        """Return the row of the image with them."""
        return replace(
            row, editability=self.editability, strength=self.strength, leakage=self.leakage, realism=self.realism
        )


def _edits(method: Compared) -> dict[Name, _Edited]:
    """Return the figures of edits of the images of a method, empty without edits."""
    found: dict[Name, _Edited] = {}
    ledger, step = method.plan.ledger, method.editing
    if step is None:
        return found
    for unit in method.samples.units:
        receipt = ledger.receipt(_address(step, unit.name))
        for row in read_rows(ledger.read_file(receipt, ROWS)) if receipt is not None else ():
            if row["outcome"] == "recorded":
                figures = (row[name] for name in ("editability", "strength", "leakage", "realism"))
                found[row["shard"], row["key"]] = _Edited(*figures)
    return found


def _rows(method: Compared, receipt: Receipt) -> Iterator[ImageRow]:
    first = f"share_{column(method.plan.spaces[0])}"
    for row in read_rows(method.plan.ledger.read_file(receipt, ROWS)):
        if row["outcome"] == "recorded":
            yield ImageRow(
                method=method.name,
                shard=row["shard"],
                key=row["key"],
                psnr_db=row["psnr_db"],
                lpips=row["lpips"],
                steps=float(row["steps"]),
                share_first=row[first],
                fingerprint=receipt.address.fingerprint,
                bundle=receipt.unit,
            )


def _address(step: MapStep, unit: str) -> Address:
    return Address(step.stage.name, step.fingerprint, unit)


def find(methods: Sequence[Measured], kind: str) -> Measured | None:
    """Return the first method of a kind that has figures, None if there is none."""
    return next((one for one in methods if one.method.kind == kind and one.rows), None)
