"""Reading images of an evaluation with what a method recorded of them, for rendering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from generators.latents import Codes
from pipeline.data.reading import Reader, Recorded
from pipeline.evaluation.measured import ImageRow, Measured
from stages.base.stage import Sample
from stages.inversion.packing import unpack_codes
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.invert import Invert


def samples_of(method: Measured, rows: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, Sample]]:
    """Yield some images of a method, unit by unit, with the records that its edits are measured with.

    Images whose shard is no longer in the input are left out.
    """
    compared = method.method
    plan, samples, invert = compared.plan, compared.samples, compared.steps[Invert]
    inventories = {shard: head.unit for shard, head in plan.inventories().items()}
    reader = Reader(plan.ledger, plan.sources, inventories, samples.selection, tolerant=True)
    others = {} if compared.editing is None else compared.editing.upstream
    records = [
        Recorded(invert.stage.name, invert.fingerprint),
        *(Recorded(name, digest, samples.cut) for name, digest in others.items() if name != invert.stage.name),
    ]
    for unit in samples.units:
        if not (of_unit := [row for row in rows if row.bundle == unit.name]):
            continue
        listed = reader.chosen(unit, [row.key for row in of_unit])
        for row, (_, sample) in zip(of_unit, reader.read(unit, listed, records), strict=True):
            if isinstance(sample, Sample) and sample.members:
                yield row, sample


def codes_of(sample: Sample) -> Codes:
    """Return the codes of an image as stored."""
    record = sample.records[Invert.name]
    w_plus = record.row["w_plus"]
    assert isinstance(w_plus, np.ndarray)
    return unpack_codes(w_plus, record.arrays)


def viewer_of(sample: Sample, viewer: Viewer) -> Viewer:
    """Return the viewer of an image's codes: with its own generator if that was tuned to it."""
    return replace(viewer, generator=tuned_generator(viewer.generator, sample.records[Invert.name].arrays))
