"""Spatially adaptive multilayer inversion: w+ and the masked deltas together (thesis Sec. 3.3, Eq. 3.4 to 3.8)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from generators.latents import Codes
from stages.base.batched_worker import batched_worker
from stages.base.stage import Record, Rejected, Sample, Worker
from stages.engine.batch import Item
from stages.engine.engine import in_turn
from stages.engine.result import Inversion, fate
from stages.engine.schedule import Schedule
from stages.engine.stopping import Budget, Finish
from stages.images.labels import class_of
from stages.inversion.inverter import Inverter, InvertingStage, Photograph
from stages.inversion.packing import Arrays, pack_codes, stack_codes, unpack_codes
from stages.inversion.viewer import Measures
from stages.maps.spaces import column


@dataclass(frozen=True)
class _Target:
    key: str
    photograph: Photograph
    assignment_HW: NDArray[np.uint8]
    schedule: Schedule
    label: int | None = None


class Invert(InvertingStage):
    """Invert each image with every segment in the space it was assigned.

    Records `w_plus` (float16 `[num_ws, w_dim]`), `psnr_db`, `lpips`, `loss`, `steps` (taken, of the attempt kept),
    `share_SPACE`, the digest of the generator, the name of the perceptual distance and, where configured, `label`; the
    arrays are the packed deltas and masks (`stages.inversion.packing`), `assignment_HW` and the thinned loss curve. All
    measures are of the codes as stored, after packing.
    """

    name: ClassVar[str] = "invert"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("refine_maps",)

    finish: Finish | None = None
    budget: Budget | None = None

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; the worker inverts `batch` images at a time."""
        inverter = self.inverter(device)

        def prepare(sample: Sample) -> _Target:
            refined = sample.records["refine_maps"]
            assignment_HW = refined.arrays["assignment_HW"].astype(np.uint8)
            schedule = self._schedule(refined)
            photograph = inverter.fitted(self.image.picture(sample).pixels_HW3)
            label = class_of(sample, self.label, inverter.generator.label_dim)
            return _Target(sample.key, photograph, assignment_HW, schedule, label)

        width = inverter.width(self.batch)
        engine = inverter.engine(width)

        def compute(targets: Sequence[_Target]) -> Iterator[Record | Rejected]:
            futures = [engine.submit(functools.partial(_begin, inverter, target, self.finish)) for target in targets]
            return map(functools.partial(_record, inverter), targets, in_turn(futures))

        return batched_worker(prepare, compute, width, engine.expect)

    def _schedule(self, refined: Record) -> Schedule:
        if self.budget is None:
            return self.schedule
        error = refined.row["error"]
        assert isinstance(error, float), "refine_maps records it"
        return self.budget.of(self.schedule, error)


def _begin(inverter: Inverter, target: _Target, finish: Finish | None) -> Item:
    seen_13hw = target.photograph.seen_3hw[None].to(inverter.prior.mean_w.device)
    item = inverter.item(inverter.target(seen_13hw), inverter.masks(target.assignment_HW[None]), target.label)
    return replace(item, schedule=target.schedule, finish=finish)


def _record(inverter: Inverter, target: _Target, inversion: Inversion) -> Record | Rejected:
    if inversion.diverged.any():
        return Rejected(target.key, f"the inversion {fate(inversion)}")
    device = inversion.codes.w_plus.device
    w_plus, packed = inversion.codes.w_plus[0].half().cpu().numpy(), pack_codes(inversion.codes, 0)
    stored = stack_codes([unpack_codes(w_plus, packed)], inverter.generator.feature_shapes)
    if too_large := _beyond_half(w_plus, packed):
        return Rejected(target.key, f"{too_large} of the inversion do not fit float16; lower the learning rate")
    measures = inverter.measure(inverter.picture(_to(stored, device)), target.photograph.image_3HW[None].to(device))
    if not bool(measures.psnr_db.isfinite().all()):
        return Rejected(target.key, "the picture of the codes as stored is not finite; lower the learning rate")
    loss_K = inversion.trace.terms["total"][:, 0]
    row = _row(inverter, target, measures) | {"w_plus": w_plus, "loss": float(loss_K[-1])}
    row["steps"] = int(inversion.trace.steps[-1]) + 1
    arrays = packed | {"assignment_HW": target.assignment_HW, "trace_step": inversion.trace.steps.numpy()}
    return Record(target.key, row, arrays | {"trace_loss": loss_K.float().numpy()})


def _beyond_half(w_plus: NDArray[np.generic], packed: Arrays) -> str:
    """Return which codes became infinite when they were rounded to float16, in words; nothing where all fit."""
    stored = {"the codes w_plus": w_plus}
    stored |= {f"the deltas of {name.partition('.')[0]}": a for name, a in packed.items() if name.endswith(".delta")}
    return " and ".join(name for name, array in stored.items() if not np.isfinite(array.astype(np.float32)).all())


def _row(inverter: Inverter, target: _Target, measures: Measures) -> dict[str, str | float | NDArray[np.generic]]:
    shares = np.bincount(target.assignment_HW.ravel(), minlength=len(inverter.spaces)) / target.assignment_HW.size
    return {
        "psnr_db": float(measures.psnr_db),
        "lpips": float(measures.lpips),
        **{f"share_{column(space)}": float(s) for space, s in zip(inverter.spaces, shares, strict=True)},
        "generator": inverter.generator.digest,
        "perceptual": inverter.perceptual.name,
        **({} if target.label is None else {"label": target.label}),
    }


def _to(codes: Codes, device: torch.device) -> Codes:
    return replace(
        codes,
        w_plus=codes.w_plus.to(device),
        deltas={space: delta.to(device) for space, delta in codes.deltas.items()},
        masks={space: mask.to(device) for space, mask in codes.masks.items()},
    )
