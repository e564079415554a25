"""Spatially adaptive multilayer inversion: w+ and the masked deltas together (thesis Sec. 3.3, Eq. 3.4 to 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import Codes
from stages.batched_worker import batched_worker
from stages.descent import Inversion
from stages.inverter import Inverter, InvertingStage, Measures
from stages.packing import pack_codes, stack_codes, unpack_codes
from stages.region import fit
from stages.sources import column
from stages.stage import Record, Rejected, Sample, Worker


@dataclass(frozen=True)
class _Target:
    key: str
    image_3HW: Tensor
    assignment_HW: NDArray[np.uint8]


class Invert(InvertingStage):
    """Invert each image with every segment in the space it was assigned.

    Records `w_plus` (float16 `[num_ws, w_dim]`), `psnr_db`, `lpips`, `loss`, `share_SPACE`, the digest of the
    generator and the name of the perceptual distance; the arrays are the packed deltas and masks (`stages.packing`),
    `assignment_HW` and the thinned loss curve. All measures are of the codes as stored, after packing.
    """

    name: ClassVar[str] = "invert"
    reads: ClassVar[tuple[str, ...]] = ("refine_maps",)

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; the worker inverts a batch at a time."""
        inverter = self.inverter(device)

        def prepare(sample: Sample) -> _Target:
            assignment_HW = sample.records["refine_maps"].arrays["assignment_HW"].astype(np.uint8)
            return _Target(sample.key, fit(sample.image(), inverter.region), assignment_HW)

        def compute(targets: Sequence[_Target]) -> list[Record | Rejected]:
            batch = torch.stack([target.image_3HW for target in targets]).to(device)
            inversion = inverter.invert(batch, inverter.masks(np.stack([target.assignment_HW for target in targets])))
            return _records(inverter, targets, batch, inversion)

        return batched_worker(prepare, compute, self.batch)


def _records(
    inverter: Inverter, targets: Sequence[_Target], batch: Tensor, inversion: Inversion
) -> list[Record | Rejected]:
    w_plus = inversion.codes.w_plus.half().cpu().numpy()
    packed = [pack_codes(inversion.codes, i) for i in range(len(targets))]
    stored = stack_codes(
        [unpack_codes(w, arrays) for w, arrays in zip(w_plus, packed, strict=True)], inverter.generator.feature_shapes
    )
    measures = inverter.measure(inverter.picture(_to(stored, batch.device)), batch)
    trace = inversion.trace
    records: list[Record | Rejected] = []
    for i, target in enumerate(targets):
        if bool(inversion.diverged[i]) or not bool(measures.psnr_db[i].isfinite()):
            reason = "the inversion became non-finite, or its deltas do not fit float16; lower the learning rate"
            records.append(Rejected(target.key, reason))
            continue
        row = _row(inverter, target, measures, i) | {"w_plus": w_plus[i], "loss": float(trace.terms["total"][-1, i])}
        arrays = packed[i] | {"assignment_HW": target.assignment_HW, "trace_step": trace.steps.cpu().numpy()}
        arrays["trace_loss"] = trace.terms["total"][:, i].float().cpu().numpy()
        records.append(Record(target.key, row, arrays))
    return records


def _row(
    inverter: Inverter, target: _Target, measures: Measures, i: int
) -> dict[str, str | float | NDArray[np.generic]]:
    shares = (
        np.bincount(target.assignment_HW.ravel(), minlength=len(inverter.generator.spaces)) / target.assignment_HW.size
    )
    return {
        "psnr_db": float(measures.psnr_db[i]),
        "lpips": float(measures.lpips[i]),
        **{f"share_{column(space)}": float(s) for space, s in zip(inverter.generator.spaces, shares, strict=True)},
        "generator": inverter.generator.digest,
        "perceptual": inverter.perceptual.name,
    }


def _to(codes: Codes, device: torch.device) -> Codes:
    return replace(
        codes,
        w_plus=codes.w_plus.to(device),
        deltas={space: delta.to(device) for space, delta in codes.deltas.items()},
        masks={space: mask.to(device) for space, mask in codes.masks.items()},
    )
