"""Upper bounds of the bytes per sample, from shapes alone: a plan's estimate before the first unit is committed."""

from __future__ import annotations

import math

from pipeline.data import inventory
from pipeline.plan.plan import Plan
from stages.editing.settings import labels_of

OVERHEAD_BYTES = 8192
"""Bytes of rows, headers of members and loss curves per sample."""
LISTED_BYTES = 1000
"""Bytes of a sample in an inventory."""


def bytes_at_most(plan: Plan) -> dict[str, int]:
    """Return the bytes per sample, by stage: arrays of full size, uncompressed, every delta everywhere."""
    spaces, map_px, region_px = len(plan.spaces), math.prod(plan.map_size), math.prod(plan.region.size)
    settings, generator = plan.config.error_maps, plan.generator
    images = spaces * region_px * 3 if settings.keep_images else 0
    features = [generator.feature_shape(space) for space in plan.spaces[1:]]
    codes = sum(2 * (math.prod(shape) + math.prod(shape[1:])) for shape in features)  # float16, deltas and masks
    w_plus = 2 * generator.num_ws * generator.w_dim
    edit = plan.config.edit
    edits = 0 if edit is None else len(labels_of(edit.directions, edit.magnitudes, edit.sequences))
    return {
        inventory.STAGE: LISTED_BYTES,
        "error_maps": OVERHEAD_BYTES + spaces * (2 * map_px + 4 * settings.schedule.steps) + images,
        "predict_maps": OVERHEAD_BYTES + spaces * 2 * map_px,
        "refine_maps": OVERHEAD_BYTES + region_px * 5,  # uint8 assignment, int32 labels
        "invert": OVERHEAD_BYTES + w_plus + codes + region_px,
        "edit": OVERHEAD_BYTES + edits * region_px * 3,
    }
