"""Proof that stored codes can be used: every npz unpacks, and some pictures still have the PSNR of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from infra.bundles import read_arrays
from infra.errors import BundleError, DamagedBundleError
from infra.receipts import Address, Ledger, Receipt, ReceiptHead, damage_of
from pipeline.data.reading import Reader, Recorded
from pipeline.data.records import ARRAYS
from pipeline.data.units import Shard, Unit
from pipeline.operations.accounting import REPAIR, Problem, damaged_problem
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep
from stages.base.stage import Sample
from stages.editing.editor import Editor
from stages.inversion.packing import CodesError, check_codes, unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import MAX_PSNR_DB
from stages.maps.region import fit, psnr_db

RENDERED = 8
"""Number of images that are rendered again, of units spread over the whole input."""
TOLERANCE_DB = 0.05
"""Largest difference from the recorded PSNR that hardware may cause."""


def whole_with_codes(ledger: Ledger, receipt: Receipt) -> list[Problem]:
    """Return the damage of a bundle of inversions, or why its codes cannot be used; each file is read once."""
    problems = [damaged_problem(damage) for damage in ledger.damages(receipt, without={ARRAYS})]
    try:
        what = _unusable(ledger.read_file(receipt, ARRAYS), receipt)
    except DamagedBundleError as error:
        return problems + [damaged_problem(damage) for damage in error.damages]
    return [*problems, _problem(receipt, what)] if what else problems


def _unusable(tar: bytes, receipt: Receipt) -> str:
    """Return why codes of a bundle cannot be used; empty if they can."""
    seen, key = set[str](), ""
    try:
        for key, arrays in read_arrays(tar):
            check_codes(arrays)
            seen.add(key)
    except BundleError as error:
        return f"codes after {key!r} cannot be read: {error}"
    except CodesError as error:
        return f"{key}: {error}"
    lacking = [key for key in receipt.recorded if key not in seen]
    return f"{ARRAYS} lacks the codes of {', '.join(lacking[:3])}" if lacking else ""


def unlike_their_rows(plan: Plan, step: MapStep, shards: Mapping[Shard, ReceiptHead]) -> tuple[list[Problem], str]:
    """Return a problem for each rendered image whose PSNR is not that of its row, and the tally.

    Only images whose shards are still in the input can be compared.
    """
    units, problems, worst, count = plan.units(shards, step.selection), list[Problem](), 0.0, 0
    inventories = {shard: head.unit for shard, head in shards.items()}
    reader = Reader(plan.ledger, plan.sources, inventories, step.selection, tolerant=True)
    editor = Editor(plan.generator, plan.region)
    for unit in _spread(units):
        for sample in _first(reader, unit, step, plan):
            try:
                recorded, found = _psnrs(sample, step, editor, plan)
            except CodesError:
                continue  # found before
            count, worst = count + 1, max(worst, abs(recorded - found))
            receipt = plan.ledger.receipt(_address(step, unit))
            if abs(recorded - found) > TOLERANCE_DB and receipt is not None:
                what = f"{sample.key} of unit {unit.name} renders with {found:.2f} dB, its row says {recorded:.2f}"
                problems.append(_problem(receipt, what))
    return problems, f"{step.stage.name}: {count} images rendered again, at most {worst:.3f} dB from their rows"


def _first(reader: Reader, unit: Unit, step: MapStep, plan: Plan) -> Iterator[Sample]:
    """Yield the first sample of a unit that can be rendered and compared, if there is any."""
    try:
        recorded = [Recorded(step.stage.name, step.fingerprint)]
        for _, sample in reader.read(unit, None, recorded, plan.image.candidates):
            if isinstance(sample, Sample) and sample.members:
                yield sample
                return
    except BundleError:
        return  # found before


def _psnrs(sample: Sample, step: MapStep, editor: Editor, plan: Plan) -> tuple[float, float]:
    """Return the PSNR that a sample's row has, and that of its stored codes now."""
    record = sample.records[step.stage.name]
    w_plus, recorded = record.row["w_plus"], record.row["psnr_db"]
    assert isinstance(w_plus, np.ndarray)
    assert isinstance(recorded, float)
    editor = replace(editor, generator=tuned_generator(editor.generator, record.arrays))
    picture = editor.reconstruction(unpack_codes(w_plus, record.arrays)).image_N3HW
    target = fit(plan.image.picture(sample).pixels_HW3, plan.region)[None]
    return recorded, float(psnr_db(picture, target).clamp(max=MAX_PSNR_DB))


def _address(step: MapStep, unit: Unit) -> Address:
    return Address(step.stage.name, step.fingerprint, unit.name)


def _spread(units: Sequence[Unit]) -> list[Unit]:
    numbers = np.linspace(0, len(units) - 1, min(RENDERED, len(units))).astype(int)
    return [units[number] for number in sorted(set(numbers.tolist()))]


def _problem(receipt: Receipt, what: str) -> Problem:
    return Problem(receipt.stage, f"unit {receipt.unit}: {what}", REPAIR, damage_of(receipt, what))
