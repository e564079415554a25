"""Upper bounds of the bytes per sample, from shapes alone: a plan's estimate before the first unit is committed."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.data import inventory
from pipeline.plan.graph import maps_samples
from pipeline.plan.plan import Plan
from stages.base.stage import Sizes
from stages.inversion.tuned import change_bytes

OVERHEAD_BYTES = 8192
"""Bytes of rows, headers of members and loss curves per sample."""
LISTED_BYTES = 1000
"""Bytes of a sample in an inventory."""


def bytes_at_most(plan: Plan) -> dict[str, int]:
    """Return the bytes per sample, by stage: arrays of full size, uncompressed, every delta everywhere."""
    generator = plan.generator
    features = [generator.feature_shape(space) for space in plan.spaces[1:]]
    deltas = sum(2 * (math.prod(shape) + math.prod(shape[1:])) for shape in features)  # float16, with their masks
    sizes = Sizes(
        spaces=len(plan.spaces),
        map_px=math.prod(plan.map_size),
        region_px=math.prod(plan.region.size),
        codes_bytes=2 * generator.num_ws * generator.w_dim + deltas,
        tuned_bytes=change_bytes(generator),
    )
    most = {inventory.STAGE: LISTED_BYTES}
    for stage in filter(maps_samples, plan.stages):
        untrained = {"segmenter": Path()} if "segmenter" in stage.model_fields else {}
        size = plan.stage(stage, **untrained).bytes_at_most(sizes)
        most |= {stage.name: OVERHEAD_BYTES + size} if size is not None else {}
    return most
