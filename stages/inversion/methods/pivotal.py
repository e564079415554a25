"""Pivotal tuning (PTI, Roich et al. 2021): codes first, then the generator itself is tuned to the image around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from generators.generator import Generator
from generators.latents import Codes
from stages.base.errors import SettingError
from stages.base.stage import sample_seed
from stages.engine.schedule import Schedule
from stages.inversion.inverter import Inverter
from stages.inversion.methods.method import Assigned, Finder, Found, MethodSource
from stages.inversion.methods.optimise import optimiser
from stages.inversion.methods.space import W, check_space, in_space
from stages.inversion.packing import pack_codes, stack_codes, unpack_codes
from stages.inversion.tuned import pack_change
from stages.inversion.tuning import Noise, Tuning, tune
from stages.inversion.viewer import Viewer
from stages.objective.objective import prepare_target

if TYPE_CHECKING:
    from stages.inversion.stage import InvertingStage


class Pivotal(MethodSource):
    """Optimise a pivot, then tune the generator to each image; the change of its weights is stored with the codes.

    The pivot has no regularisation, as published; its schedule is `pivot`, not that of the stage. Images are tuned one
    at a time.
    """

    tunes: ClassVar[bool] = True

    kind: Literal["pivotal"] = "pivotal"
    spaces: str = W  # of the pivot, as for `optimise`
    pivot: Schedule = Schedule(steps=450, learning_rate=5e-3)  # steps of the pivot
    tuning: Tuning = Tuning()  # of the generator
    seed: int = 0  # of the random codes of the locality regularisation, together with the key of the sample

    @property
    def title(self) -> str:
        """The name in reports."""
        return f"pivotal tuning from a pivot{in_space(self.spaces)}"

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `SettingError` if the family has no weights to tune, or the run no such space."""
        if not generator.tunable:
            raise SettingError(
                f"invert.method: pivotal tunes a generator's weights, and the family {generator.family} has none that "
                "can be tuned; choose optimise"
            )
        check_space(self.spaces, generator, spaces)

    def load(self, stage: InvertingStage, viewer: Viewer) -> Finder:
        """Load prior and start."""
        self.check_fits(viewer.generator, viewer.spaces)
        objective = stage.objective.model_copy(update={"lambda_gaussian": 0.0, "lambda_variation": 0.0})
        pivoting = stage.model_copy(update={"objective": objective, "schedule": self.pivot})
        inverter = pivoting.inverter_with(viewer)
        finder, turn = optimiser(inverter, self.spaces, stage.batch), threading.Lock()

        def tuned(images: Sequence[Assigned], pivots: Iterator[Found]) -> Iterator[Found]:
            for image, pivot in zip(images, pivots, strict=True):
                with turn:  # memory has room for one
                    yield self._tuned(inverter, image, pivot)

        return replace(finder, find=lambda images: tuned(images, finder.find(images)))

    def _tuned(self, inverter: Inverter, image: Assigned, pivot: Found) -> Found:
        if pivot.reason:
            return pivot
        codes, photograph = _as_stored(pivot.inversion.codes, inverter), image.photograph
        if not all(bool(tensor.isfinite().all()) for tensor in (codes.w_plus, *codes.deltas.values())):
            return pivot  # refused when it is recorded
        seen_13hw = photograph.seen_3hw[None].to(inverter.device)
        target = prepare_target(seen_13hw, inverter.perceptual, inverter.objective)  # tuning is in float32
        noise = Noise.from_seed(sample_seed(self.seed, photograph.key), photograph.label)
        tuned = tune(inverter, inverter.objective, self.tuning, codes, target, noise)
        steps = pivot.steps + tuned.steps
        if not np.isfinite(tuned.loss):
            reason = f"tuning became non-finite at step {tuned.steps}; lower invert.method.tuning.learning_rate"
            return replace(pivot, steps=steps, loss=None, reason=reason)
        arrays = pack_change(inverter.generator, tuned.generator)
        return replace(pivot, steps=steps, loss=tuned.loss, arrays=arrays)


def _as_stored(codes: Codes, inverter: Inverter) -> Codes:
    """Return an image's codes as they are read back, on the device: the generator is tuned to these."""
    w_plus = codes.w_plus[0].half().cpu().numpy()
    stored = stack_codes([unpack_codes(w_plus, pack_codes(codes, 0))], inverter.generator.feature_shapes)
    return stored.to(inverter.device)
