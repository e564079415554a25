"""The step that measures how well a method's codes can be edited: by the edits of the run, on the images compared."""

from __future__ import annotations

from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from stages.editability import Editability
from stages.invert import Invert
from stages.refine_maps import RefineMaps


def editing_step(base: Plan, refined: MapStep, steps: Steps) -> MapStep | None:
    """Return the step for a method, None if the run has no edits (`edit`).

    Args:
        base: the run's own plan.
        refined: the run's own assignments, which say what should stay; equal for all methods.
        steps: of the method.
    """
    edits = base.config.edit
    if edits is None:
        return None
    stage = Editability(
        generator=base.generator_source,
        perceptual=base.perceptual,
        region=base.region,
        image=base.image,
        directions=edits.directions,
        magnitudes=edits.magnitudes,
        sequences=edits.sequences,
        truth=base.config.true_edits,
    )
    upstream = {Invert.name: steps[Invert].fingerprint, RefineMaps.name: refined.fingerprint}
    settings = settings_of(stage, stage.indifferent)
    digest = fingerprint(stage.name, stage.version, settings, list(upstream.values()))
    return MapStep(stage, digest, upstream, base.everything)
