"""Proof that the figures of an evaluation are those of its bundles: some images rendered again, tables made again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RunError
from pipeline.evaluation.conclude import FOLDER, SUMMARY
from pipeline.evaluation.measured import ImageRow, Measured
from pipeline.evaluation.reading import codes_of, samples_of, viewer_of
from pipeline.evaluation.tables import Evaluation, summary_of
from stages.base.stage import Record
from stages.inversion.viewer import Viewer
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
    numbers = np.linspace(0, len(method.rows) - 1, min(RENDERED, len(method.rows))).astype(int)
    rows = [method.rows[number] for number in sorted(set(numbers.tolist()))]
    editing = method.method.editing
    measure_edits = None if editing is None else editing.stage.setup(viewer.device)
    for row, sample in samples_of(method, rows):
        picture_13HW = viewer_of(sample, viewer).picture(codes_of(sample))
        target_3HW = fit(method.method.plan.image.picture(sample).pixels_HW3, viewer.region)
        measures = viewer.measure(picture_13HW, target_3HW[None])
        again = {"psnr_db": float(measures.psnr_db), "lpips": float(measures.lpips)}
        if measure_edits is not None and row.editability is not None:
            (of_edits,) = measure_edits([sample])
            again["editability"] = float(str(of_edits.row["editability"])) if isinstance(of_edits, Record) else 0.0
        yield row, again


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
