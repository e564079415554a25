"""Spatially adaptive multilayer inversion: each segment of an image in the space it was assigned (thesis Sec. 3.3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from generators.latents import Codes
from stages.base.batched_worker import batched_worker
from stages.base.stage import Record, Rejected, Sample, Sizes, Value, Worker
from stages.inversion.methods import Method, Optimise
from stages.inversion.methods.method import Assigned, Found
from stages.inversion.packing import Arrays, pack_codes, stack_codes, unpack_codes
from stages.inversion.stage import InvertingStage
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.maps.spaces import column

REFINED = "refine_maps"  # the stage whose records it reads
REMOVED = {"finish": None, "budget": None}
"""Removed settings, which gave images fewer steps where their loss no longer fell or little error was predicted."""


def without_steps_by_need(settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
    """Return settings without removed ones that are off; raise `ValueError` if one is on."""
    if not isinstance(settings, Mapping):
        return settings
    if used := [name for name in REMOVED if settings.get(name) is not None]:
        raise ValueError(
            f"{' and '.join(used)}: steps by need were removed, since they gained little over fewer steps for all "
            "images. Remove the setting, and lower invert.schedule.steps to save time"
        )
    return {name: value for name, value in settings.items() if name not in REMOVED}


class Invert(InvertingStage):
    """Invert each image with every segment in its assigned space.

    Records `w_plus` (float16 `[num_ws, w_dim]`), `psnr_db`, `lpips`, `loss` (null for an encoder), `steps` (taken, of
    the attempt kept; passes of an encoder), `share_SPACE`, the digest of the generator, the name of the perceptual
    distance and, where configured, `label`; the arrays are the packed deltas and masks (`stages.inversion.packing`),
    `assignment_HW`, the thinned loss curve and, of a tuned generator, its change (`stages.inversion.tuned`). All
    measures are of the codes as stored, after packing.
    """

    name: ClassVar[str] = "invert"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = (REFINED,)

    method: Method = Optimise()  # how codes are found

    formerly: ClassVar[Mapping[str, Value]] = REMOVED

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"loss": float}

    _removed = model_validator(mode="before")(without_steps_by_need)

    @model_validator(mode="after")
    def _method_and_settings_agree(self) -> Self:
        self.method.check_settings(self)
        return self

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return the bytes of codes and assignment."""
        return sizes.codes_bytes + sizes.region_px + (sizes.tuned_bytes if self.method.tunes else 0)

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance, and what the method needs."""
        viewer = self.viewer(device)
        method = self.method.load(self, viewer)

        def prepare(sample: Sample) -> Assigned:
            assignment_HW = sample.records[REFINED].arrays["assignment_HW"].astype(np.uint8)
            pixels_HW3 = self.image.picture(sample).pixels_HW3
            return Assigned(self.photograph(sample, pixels_HW3, viewer), method.assign(assignment_HW))

        def compute(images: Sequence[Assigned]) -> Iterator[Record | Rejected]:
            found = method.find(images)
            if method.together:
                return _records(viewer, images, found)
            return itertools.chain.from_iterable(
                _records(viewer, [image], [one]) for image, one in zip(images, found, strict=True)
            )

        return batched_worker(prepare, compute, method.batch, method.begins)

    def with_encoder(self, checkpoint: Path) -> Self:
        """Return this stage with the encoder that its run has trained."""
        return self.model_copy(update={"method": self.method.model_copy(update={"checkpoint": checkpoint})})


@dataclass(frozen=True)
class _Stored:
    """Codes in the form in which they are stored, and as that form is read."""

    w_plus_RD: NDArray[np.generic]
    packed: Arrays
    codes: Codes


def _records(viewer: Viewer, images: Sequence[Assigned], found: Iterable[Found]) -> Iterator[Record | Rejected]:
    """Yield the records of inversions: packed codes, and the measures of the pictures that they form.

    The pictures are made and measured in one pass. Images whose generator was tuned come one by one.
    """
    results = list(found)
    stored = [_stored(result) for result in results]
    good = [i for i, one in enumerate(stored) if isinstance(one, _Stored)]
    measured = dict(zip(good, _measured(viewer, images, results, stored), strict=True)) if good else {}
    for i, (image, result, one) in enumerate(zip(images, results, stored, strict=True)):
        if isinstance(one, str):
            yield Rejected(image.photograph.key, one)
        elif not math.isfinite(measured[i][0]):
            reason = "the picture of the codes as stored is not finite; lower the learning rate"
            yield Rejected(image.photograph.key, reason)
        else:
            trace_K, loss_K = result.inversion.trace.steps, result.inversion.trace.terms["total"][:, 0]
            row = _row(viewer, image, *measured[i])
            row |= {"w_plus": one.w_plus_RD, "loss": result.loss, "steps": result.steps}
            trace = {"trace_step": trace_K.numpy(), "trace_loss": loss_K.float().numpy()}
            arrays = one.packed | {"assignment_HW": image.assignment_HW} | trace | dict(result.arrays)
            yield Record(image.photograph.key, row, arrays)


def _stored(found: Found) -> _Stored | str:
    """Return the codes of an inversion as they are stored, or why they cannot be."""
    if found.reason:
        return found.reason
    w_plus_RD, packed = found.inversion.codes.w_plus[0].half().cpu().numpy(), pack_codes(found.inversion.codes, 0)
    if too_large := _beyond_half(w_plus_RD, packed):
        return f"{too_large} of the inversion do not fit float16; lower the learning rate"
    return _Stored(w_plus_RD, packed, unpack_codes(w_plus_RD, packed))


def _measured(
    viewer: Viewer, images: Sequence[Assigned], found: Sequence[Found], stored: Sequence[_Stored | str]
) -> list[tuple[float, float]]:
    """Return PSNR and LPIPS of the pictures of those images whose codes are stored."""
    good = [(image, one) for image, one in zip(images, stored, strict=True) if isinstance(one, _Stored)]
    codes = stack_codes([one.codes for _, one in good], viewer.generator.feature_shapes)
    formed_by = replace(viewer, generator=tuned_generator(viewer.generator, found[0].arrays))
    picture_N3HW = formed_by.picture(codes.to(viewer.device))
    target_N3HW = torch.stack([image.photograph.image_3HW for image, _ in good]).to(viewer.device)
    measures = viewer.measure(picture_N3HW, target_N3HW)
    return list(zip(measures.psnr_db.tolist(), measures.lpips.tolist(), strict=True))


def _beyond_half(w_plus: NDArray[np.generic], packed: Arrays) -> str:
    """Return the names of codes that became infinite in float16; empty if all fit."""
    stored = {"the codes w_plus": w_plus}
    stored |= {f"the deltas of {name.partition('.')[0]}": a for name, a in packed.items() if name.endswith(".delta")}
    return " and ".join(name for name, array in stored.items() if not np.isfinite(array.astype(np.float32)).all())


def _row(viewer: Viewer, image: Assigned, psnr_db: float, lpips: float) -> dict[str, Value]:
    shares = np.bincount(image.assignment_HW.ravel(), minlength=len(viewer.spaces)) / image.assignment_HW.size
    label = image.photograph.label
    return {
        "psnr_db": psnr_db,
        "lpips": lpips,
        **{f"share_{column(space)}": float(s) for space, s in zip(viewer.spaces, shares, strict=True)},
        "generator": viewer.generator.digest,
        "perceptual": viewer.perceptual.name,
        **({} if label is None else {"label": label}),
    }
