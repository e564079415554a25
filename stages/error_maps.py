"""Supervision: every image inverted in every single space, and the errors (thesis Sec. 3.1, Eq. 3.1)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator
from torch import Tensor

from generators.latents import Codes
from stages.base.batched_worker import batched_worker
from stages.base.stage import Record, Rejected, Sample, Sizes, Worker
from stages.engine.batch import Item
from stages.engine.engine import Engine, in_turn
from stages.engine.result import Inversion, Trace, fate
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.inversion.single import pack_single
from stages.inversion.stage import InvertingStage, NamedSchedule
from stages.inversion.starts import Bundle
from stages.inversion.viewer import Photograph
from stages.maps.reduction import at_size, fit_reduced, reduced
from stages.maps.region import to_uint8
from stages.maps.spaces import column
from stages.maps.stored import stored_maps
from stages.maps.truth import auroc, known_occluder
from stages.objective.objective import Target


@dataclass(frozen=True)
class _Target:
    photograph: Photograph
    mapped_3hw: Tensor  # at the size of the maps
    occluded_HW: NDArray[np.bool_] | None  # at the region's size, since a thin occluder may have no pixel in a map


@dataclass(frozen=True)
class _InOneSpace:
    """The inversion of one image in one space."""

    psnr_db: float
    lpips: float
    error_hw: NDArray[np.float32]
    image_HW3: NDArray[np.uint8]
    trace: Trace
    codes: Codes


class ErrorMaps(InvertingStage):
    """Invert each image in each single space; the spatial LPIPS of that inversion is its error map e_l (Eq. 3.1).

    Maps compare photograph and inversion at `map_side_px`; PSNR and LPIPS are over the region at its own size.

    Records `psnr_db_SPACE` and `lpips_SPACE` for every space, the digest of the generator, name and digest of the
    perceptual distance, and, most editable space first, the arrays `spaces` (their names), `error_LHW`
    (`stages.maps.stored`) and `loss_LK`, the loss before the update of each of the steps in `loss_step`; with `truth`,
    also `occluded` and `auroc`, of the first space's map against the known occluder; `label`, where configured; with
    `keep_codes`, the codes of every space (`stages.inversion.single`).
    """

    name: ClassVar[str] = "error_maps"
    version: ClassVar[int] = 4
    supervision_only: ClassVar[bool] = True

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {"occluded": bool, "auroc": float}

    truth: str | None = None  # member of a sample that masks its occluder, white where occluded
    map_side_px: PositiveInt | None = 256  # longest side of the maps; None is the region's
    schedule: NamedSchedule = Schedule(steps=501)  # steps per image and space; `thesis` is the published schedule
    keep_images: bool = False  # also keep the single-space inversions, `image_LHW3` uint8
    keep_codes: bool = False  # also keep their codes, so that edits in one space can be compared with those of SAM

    added: ClassVar[Mapping[str, object]] = {**InvertingStage.added, "keep_codes": False}

    @model_validator(mode="after")
    def _starts_by_itself(self) -> Self:
        if isinstance(self.start, Bundle) and self.start.store is not None:
            raise ValueError(
                "error maps are made of other units than inversions, so they cannot start from a store; export its "
                "codes and give them as start.codes, or choose another start"
            )
        if self.start.needs_training:
            raise ValueError(
                "the run's own encoder is trained after error maps, which cannot start from it; name the file of an "
                "encoder (error_maps.start.encoder.checkpoint), or choose another start"
            )
        return self

    def bytes_at_most(self, sizes: Sizes) -> int:
        """Return the bytes of maps and loss curves, and of images and codes if they are kept."""
        images = sizes.region_px * 3 if self.keep_images else 0
        codes = sizes.codes_bytes if self.keep_codes else 0
        return sizes.spaces * (2 * sizes.map_px + 4 * self.schedule.steps + images + codes)

    def steps_of_a_sample(self, spaces: int) -> int:
        """Return the steps of its inversions in every space."""
        return spaces * self.schedule.steps

    def setup(self, device: torch.device) -> Worker:
        """Load generator and perceptual distance; the worker inverts `batch` items, an image in a space, at a time."""
        inverter = self.inverter(device)

        def prepare(sample: Sample) -> _Target:
            picture, region, side_px = self.image.picture(sample), inverter.region, self.map_side_px
            mapped_3hw = fit_reduced(picture.pixels_HW3, region, side_px)
            occluded_HW = known_occluder(sample, self.truth, picture.geometry, region)
            photograph = self.photograph(sample, picture.pixels_HW3, inverter)
            return _Target(photograph, mapped_3hw, occluded_HW)

        width = inverter.width(self.batch)
        engine = inverter.engine(width)

        def compute(targets: Sequence[_Target]) -> Iterator[Record | Rejected]:
            submitted = [_submit(engine, inverter, target.photograph) for target in targets]
            return self._records(inverter, targets, submitted)

        return batched_worker(prepare, compute, width, lambda samples: engine.expect(samples * len(inverter.spaces)))

    def _records(
        self, inverter: Inverter, targets: Sequence[_Target], submitted: Sequence[Sequence[Future[Inversion]]]
    ) -> Iterator[Record | Rejected]:
        inversions = in_turn(itertools.chain.from_iterable(submitted))
        for target, futures in zip(targets, submitted, strict=True):
            yield self._record(inverter, target, list(itertools.islice(inversions, len(futures))))

    def _record(self, inverter: Inverter, target: _Target, inversions: Sequence[Inversion]) -> Record | Rejected:
        for space, inversion in zip(inverter.spaces, inversions, strict=True):
            if inversion.diverged.any():
                return Rejected(target.photograph.key, f"the inversion in {space} {fate(inversion)}")
        measured = [self._measured(inverter, target, inversion) for inversion in inversions]
        spaces = dict(zip(inverter.spaces, measured, strict=True))
        row: dict[str, str | float | bool | None] = {}
        for space, result in spaces.items():
            row[f"psnr_db_{column(space)}"] = result.psnr_db
            row[f"lpips_{column(space)}"] = result.lpips
        occluded_HW, error_Lhw = target.occluded_HW, stored_maps(np.stack([result.error_hw for result in measured]))
        row["occluded"] = None if occluded_HW is None else bool(occluded_HW.any())
        row["auroc"] = None if occluded_HW is None else auroc(error_Lhw[0], at_size(occluded_HW, error_Lhw.shape[1:]))
        row["generator"] = inverter.generator.digest
        row["perceptual"] = inverter.perceptual.name
        row["perceptual_digest"] = inverter.perceptual.digest
        if target.photograph.label is not None:
            row["label"] = target.photograph.label
        arrays: dict[str, NDArray[np.generic]] = {
            "spaces": np.asarray(list(spaces)),
            "error_LHW": error_Lhw,
            "loss_LK": np.stack([result.trace.terms["total"][:, 0].float().numpy() for result in measured]),
            "loss_step": measured[0].trace.steps.numpy(),
        }
        if self.keep_images:
            arrays["image_LHW3"] = np.stack([result.image_HW3 for result in measured])
        if self.keep_codes:
            arrays |= pack_single([result.codes for result in measured])
        return Record(target.photograph.key, row, arrays)

    def _measured(self, inverter: Inverter, target: _Target, inversion: Inversion) -> _InOneSpace:
        """Return the inversion of an image in a space; measured one by one, so that neighbours change no digit."""
        device = inversion.codes.w_plus.device
        image_13HW = inverter.picture(inversion.codes)
        measures = inverter.measure(image_13HW, target.photograph.image_3HW[None].to(device))
        error_1hw = inverter.error_map(reduced(image_13HW, self.map_side_px), target.mapped_3hw[None].to(device))
        return _InOneSpace(
            float(measures.psnr_db),
            float(measures.lpips),
            error_1hw[0].float().cpu().numpy(),
            to_uint8(image_13HW)[0],
            inversion.trace,
            inversion.codes,
        )


def _submit(engine: Engine, inverter: Inverter, photograph: Photograph) -> list[Future[Inversion]]:
    """Submit a photograph in every space; in a feature space w+ moves too, as in the authors' code."""

    @functools.cache
    def target() -> Target:  # made by the first space that starts, for all of them
        return inverter.target(photograph.seen_3hw[None].to(inverter.device))

    def begin(index: int, space: str) -> Item:
        assignment_HW = np.full(inverter.region.size, index, np.uint8)
        return inverter.item(photograph, inverter.everywhere(space), target(), assignment_HW=assignment_HW)

    return [engine.submit(functools.partial(begin, index, space)) for index, space in enumerate(inverter.spaces)]
