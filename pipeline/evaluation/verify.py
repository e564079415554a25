"""Proof that the figures of an evaluation are those of its bundles: some images rendered again, tables made again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.receipts import ReceiptHead
from pipeline.data.reading import Reader, Recorded
from pipeline.data.units import Shard, Unit
from pipeline.errors import RunError
from pipeline.evaluation.conclude import FOLDER, SUMMARY
from pipeline.evaluation.measured import ImageRow, Measured
from pipeline.evaluation.tables import Evaluation, summary_of
from stages.base.stage import Record, Sample
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.invert import Invert
from stages.maps.region import fit

RENDERED = 4
"""Number of images per method that are rendered again, spread over its images."""
TOLERANCE = {"psnr_db": 0.05, "lpips": 0.005, "editability": 0.02}
"""Largest difference from the recorded figures that hardware may cause."""
ALIKE = 1e-6
"""Largest relative difference of a figure in a file from the same figure of the bundles."""


def verified(evaluation: Evaluation, viewer: Viewer, folder: Path) -> tuple[list[str], list[str]]:
    """Return the problems, none if every figure is right, and what was compared.

    Some images of each method are rendered again from their codes as stored, measured again, and their edits too. The
    figures of `summary.json` are compared with those of all bundles.

    Args:
        evaluation: made of the bundles now.
        viewer: of the run.
        folder: of the run, with the files of an evaluation.

    Raises:
        RunError: there are no such files.
    """
    problems, facts = list[str](), list[str]()
    for method in evaluation.methods:
        found = list(rendered(method, viewer))
        problems += [problem for row, again in found for problem in _unlike(row, again)]
        worst = max((abs(row.psnr_db - again["psnr_db"]) for row, again in found), default=0.0)
        facts.append(f"{method.name}: {len(found)} images rendered again, at most {worst:.3f} dB from their rows")
    stored = _stored(folder)
    problems += list(_differences(stored, json.loads(json.dumps(summary_of(evaluation))), ("methods", "claims")))
    facts.append(f"{SUMMARY}: {len(stored.get('methods', {}))} methods compared with the rows of all bundles")
    return problems, facts


def rendered(method: Measured, viewer: Viewer) -> Iterator[tuple[ImageRow, dict[str, float]]]:
    """Yield some images of a method with their figures measured again, from shard and bundle."""
    compared = method.method
    plan, step = compared.plan, compared.steps[Invert]
    shards = plan.inventories()
    reader = _reader(method, shards)
    records = [Recorded(step.stage.name, step.fingerprint)]
    records += [
        Recorded(name, digest, compared.samples.cut)
        for name, digest in (compared.editing.upstream.items() if compared.editing is not None else ())
        if name != step.stage.name
    ]
    measure_edits = None if compared.editing is None else compared.editing.stage.setup(torch.device("cpu"))
    for unit, rows in _chosen(method):
        listed = reader.chosen(unit, [row.key for row in rows])
        for row, (_, sample) in zip(rows, reader.read(unit, listed, records), strict=True):
            if not isinstance(sample, Sample) or not sample.members:
                continue  # its shard is no longer in the input
            again = _measured(sample, viewer, plan.image.picture(sample).pixels_HW3)
            if measure_edits is not None and row.editability is not None:
                (of_edits,) = measure_edits([sample])
                if isinstance(of_edits, Record):
                    again["editability"] = float(str(of_edits.row["editability"]))
            yield row, again


def _reader(method: Measured, shards: dict[Shard, ReceiptHead]) -> Reader:
    plan, selection = method.method.plan, method.method.samples.selection
    inventories = {shard: head.unit for shard, head in shards.items()}
    return Reader(plan.ledger, plan.sources, inventories, selection, tolerant=True)


def _chosen(method: Measured) -> Iterator[tuple[Unit, list[ImageRow]]]:
    """Yield units with those of their images that are rendered again, spread over all."""
    numbers = np.linspace(0, len(method.rows) - 1, min(RENDERED, len(method.rows))).astype(int)
    chosen = [method.rows[number] for number in sorted(set(numbers.tolist()))]
    for unit in method.method.samples.units:
        if rows := [row for row in chosen if row.bundle == unit.name]:
            yield unit, rows


def _measured(sample: Sample, viewer: Viewer, pixels_HW3: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, float]:
    record = sample.records[Invert.name]
    w_plus = record.row["w_plus"]
    assert isinstance(w_plus, np.ndarray)
    formed_by = replace(viewer, generator=tuned_generator(viewer.generator, record.arrays))
    picture_13HW = formed_by.picture(unpack_codes(w_plus, record.arrays))
    measures = viewer.measure(picture_13HW, fit(pixels_HW3, viewer.region)[None])
    return {"psnr_db": float(measures.psnr_db), "lpips": float(measures.lpips)}


def _unlike(row: ImageRow, again: dict[str, float]) -> Iterator[str]:
    for name, value in again.items():
        recorded = getattr(row, name)
        if abs(recorded - value) > TOLERANCE[name]:
            yield (
                f"{row.method}: {row.key} of unit {row.bundle} renders with {name} {value:.4f}, its row says "
                f"{recorded:.4f}; `invertmill verify --repair` with the settings of this method, then evaluate again"
            )


def _stored(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / FOLDER / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"no evaluation in {folder}: {error}; `invertmill evaluate CONFIG` writes it") from error
    return found if isinstance(found, dict) else {}


def _differences(stored: Any, now: Any, path: Sequence[str]) -> Iterator[str]:  # noqa: ANN401  # any part of a summary
    """Yield the places under some names where what is stored is not what the bundles give now."""
    for name in path:
        yield from _unequal(stored.get(name), now.get(name), name)


def _unequal(stored: Any, now: Any, where: str) -> Iterator[str]:  # noqa: ANN401  # any part of a summary
    if isinstance(stored, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*stored, *now]):
            yield from _unequal(stored.get(name), now.get(name), f"{where}.{name}")
        return
    numbers = isinstance(stored, int | float) and isinstance(now, int | float)
    if stored != now and not (numbers and abs(stored - now) <= ALIKE * max(abs(stored), abs(now))):
        yield f"{SUMMARY}: {where} is {stored!r}, the bundles give {now!r}; evaluate again"
