"""Spatially adaptive multilayer inversion: each segment of an image in the space it was assigned (thesis Sec. 3.3)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, model_validator

from stages.base.batched_worker import batched_worker
from stages.base.stage import Record, Rejected, Sample, Sizes, Value, Worker
from stages.engine.schedule import Schedule
from stages.images.encoding import encoded
from stages.inversion.methods import Method, Optimise
from stages.inversion.methods.method import Assigned, Found
from stages.inversion.rounding import Packed, Packing, pack_exactly, pack_within
from stages.inversion.stage import InvertingStage, no_other_name
from stages.inversion.starts import BY_KIND, Mean, start_of_samples
from stages.inversion.tuned import tuned_generator
from stages.inversion.viewer import Viewer
from stages.maps.region import to_uint8
from stages.maps.spaces import column

REFINED = "refine_maps"  # the stage whose records it reads
RECONSTRUCTION = "recon.webp"

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


def with_schedule_of_start(settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
    """Return settings whose schedule, if it is null, is that of the start, or of the encoder that a hybrid has."""
    if not isinstance(settings, Mapping) or settings.get("schedule", "none given") is not None:
        return settings
    settings = start_of_samples(settings)
    kinds = {name: _kind(settings.get(name)) for name in ("method", "start")}
    kind = "encoder" if kinds["method"] == "hybrid" else kinds["start"]
    return {**settings, "schedule": BY_KIND.get(kind, Mean).schedule}


def _kind(variant: object) -> str:
    return str(variant.get("kind") if isinstance(variant, Mapping) else getattr(variant, "kind", None))


ScheduleOfStart = Annotated[
    Schedule, BeforeValidator(no_other_name, json_schema_input_type=Schedule | Literal["thesis"] | None)
]


class Invert(InvertingStage):
    """Invert each image with every segment in its assigned space.

    Records `w_plus` (float16 `[num_ws, w_dim]`), `psnr_db`, `lpips`, what storing the codes cost of both
    (`psnr_loss_db`, `lpips_loss`; null for an encoder), their `codes_format`, `loss` (null for an encoder), `steps`
    (taken, of the attempt kept; passes of an encoder), `share_SPACE`, the digest of the generator, the name of the
    perceptual distance and, where configured, `label`; the arrays are the packed codes (`stages.inversion.packing`),
    `assignment_HW`, the thinned loss curve and, of a tuned generator, its change (`stages.inversion.tuned`). All
    measures are of the codes as stored, after packing.
    """

    name: ClassVar[str] = "invert"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = (REFINED,)
    member: ClassVar[str] = "codes"
    with_arrays: ClassVar[frozenset[str]] = frozenset({RECONSTRUCTION})
    located: ClassVar[bool] = True

    schedule: ScheduleOfStart = Schedule()
    """Steps per image, and their size; `thesis` is the published schedule, null that of the start."""
    method: Method = Optimise()  # how codes are found
    bundles: Packing = Packing()  # how they are stored

    formerly: ClassVar[Mapping[str, Value]] = REMOVED

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {
        "loss": float,
        "psnr_loss_db": float,
        "lpips_loss": float,
    }

    _removed = model_validator(mode="before")(without_steps_by_need)
    _schedule = model_validator(mode="before")(with_schedule_of_start)

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
                return _together(viewer, self.bundles, images, list(found))
            return map(functools.partial(_alone, viewer, self.bundles), images, found)

        return batched_worker(prepare, compute, method.batch, method.begins)

    def with_encoder(self, checkpoint: Path) -> Self:
        """Return this stage with the encoder that its run has trained."""
        method, start = self.method.with_trained(checkpoint), self.start.with_trained(checkpoint)
        return self.model_copy(update={"method": method, "start": start})


def _together(
    viewer: Viewer, packing: Packing, images: Sequence[Assigned], found: Sequence[Found]
) -> Iterator[Record | Rejected]:
    """Yield the records of inversions by one pass of a network each: the search for steps would take longer than that.

    Their codes are stored in float16, and their pictures are made and measured in one pass.
    """
    good = [i for i, result in enumerate(found) if not _reason(result)]
    packed = dict[int, Packed]()
    if good:
        targets = torch.stack([images[i].photograph.image_3HW for i in good]).to(viewer.device)
        formed_by = replace(viewer, generator=tuned_generator(viewer.generator, found[good[0]].arrays))
        packed = dict(
            zip(good, pack_exactly([found[i].inversion.codes for i in good], targets, formed_by), strict=True)
        )
    for i, (image, result) in enumerate(zip(images, found, strict=True)):
        key = image.photograph.key
        yield _record(viewer, packing, image, result, packed[i]) if i in packed else Rejected(key, _reason(result))


def _alone(viewer: Viewer, packing: Packing, image: Assigned, found: Found) -> Record | Rejected:
    """Return the record of an inversion by optimisation, whose codes are stored with the largest steps."""
    if reason := _reason(found):
        return Rejected(image.photograph.key, reason)
    formed_by = replace(viewer, generator=tuned_generator(viewer.generator, found.arrays))
    target_13HW = image.photograph.image_3HW[None].to(viewer.device)
    packed = pack_within(packing, found.inversion.codes, target_13HW, formed_by)
    return _record(viewer, packing, image, found, packed)


def _record(viewer: Viewer, packing: Packing, image: Assigned, found: Found, packed: Packed) -> Record | Rejected:
    """Return the record of an inversion: its packed codes, and the measures of the picture that they form."""
    key, inversion = image.photograph.key, found.inversion
    if not bool(packed.measures.psnr_db.isfinite().all()):
        return Rejected(key, "the picture of the codes as stored is not finite; lower the learning rate")
    trace_K, loss_K = inversion.trace.steps, inversion.trace.terms["total"][:, 0]
    row = _row(viewer, image, packed)
    row |= {"w_plus": packed.arrays["w_plus"], "loss": found.loss, "steps": found.steps}
    trace = {"trace_step": trace_K.numpy(), "trace_loss": loss_K.float().numpy()}
    arrays = packed.arrays | {"assignment_HW": image.assignment_HW} | trace | dict(found.arrays)
    files = {RECONSTRUCTION: encoded(to_uint8(packed.picture_13HW)[0], "webp")} if packing.reconstructions else {}
    return Record(key, row, arrays, files)


def _reason(found: Found) -> str:
    """Return why an inversion has no codes that can be stored; empty if it has."""
    if found.reason:
        return found.reason
    codes = found.inversion.codes
    named = {"the codes w_plus": codes.w_plus} | {f"the deltas of {s}": delta for s, delta in codes.deltas.items()}
    beyond = " and ".join(name for name, values in named.items() if not bool(values.half().isfinite().all()))
    return f"{beyond} of the inversion do not fit float16; lower the learning rate" if beyond else ""


def _row(viewer: Viewer, image: Assigned, packed: Packed) -> dict[str, Value]:
    shares = np.bincount(image.assignment_HW.ravel(), minlength=len(viewer.spaces)) / image.assignment_HW.size
    label = image.photograph.label
    return {
        "psnr_db": float(packed.measures.psnr_db),
        "lpips": float(packed.measures.lpips),
        "psnr_loss_db": packed.psnr_loss_db,
        "lpips_loss": packed.lpips_loss,
        "codes_format": packed.format,
        **{f"share_{column(space)}": float(s) for space, s in zip(viewer.spaces, shares, strict=True)},
        "generator": viewer.generator.digest,
        "perceptual": viewer.perceptual.name,
        **({} if label is None else {"label": label}),
    }
