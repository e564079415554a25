"""A tiny run whose evaluation is computed in this process."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.evaluation.compute import committed
from pipeline.evaluation.conclude import concluded
from pipeline.jobs.map_job import MapJob
from stages.invert import Invert
from stages.refine_maps import RefineMaps
from tests.pipeline.conftest import Committed

PLAIN = "objective: {lambda_gaussian: 0, lambda_variation: 0}"
METHODS = ", ".join(
    [
        "{name: SAM}",
        *(
            f"{{name: '{space}', invert: {{method: {{kind: optimise, spaces: '{space}'}}, {PLAIN}}}}}"
            for space in ("W+", "F2", "F4")
        ),
        "{name: classes, ablates: maps, refine_maps: {class_map: {classes: [0, 1, 2]}}}",
    ]
)
EDIT = "edit={directions: [{name: a, path: networks/a.npy}], magnitudes: [-1, 1]}"
EVALUATE = (f"evaluate={{methods: [{METHODS}], resamples: 200}}", EDIT)
"""The sections as overrides."""


def evaluate(plan):
    """Commit what is missing of an evaluation, one unit after the other; return it and the number of units."""
    count = 0
    for method in committed(plan):
        refine, invert = method.steps[RefineMaps], method.steps[Invert]
        count += work(method.plan, refine, method.samples.needed, {})
        narrowed = replace(invert, selection=method.samples.selection)
        count += work(method.plan, narrowed, method.samples.units, dict.fromkeys(invert.upstream, method.samples.cut))
        editing = replace(method.editing, selection=method.samples.selection)
        count += work(method.plan, editing, method.samples.units, {"refine_maps": method.samples.cut})
    return concluded(plan, committed(plan)), count


def work(plan, step, units, cuts):
    """Commit the units of a step that are missing; return their number."""
    todo = plan.remaining(step, list(units))
    inventories = {shard: receipt.unit for shard, receipt in plan.inventories().items()}
    job = MapJob(
        step.stage,
        step.fingerprint,
        plan.sources,
        plan.ledger,
        step.upstream,
        inventories,
        step.selection,
        step.segmenter,
        cuts=cuts,
    )
    do = job.open() if todo else None
    for unit in todo:
        do(unit)
    return len(todo)


@pytest.fixture(scope="module")
def evaluated_run(first_run, tmp_path_factory):
    """A run with an evaluation; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(first_run, folder, copy_function=shutil.copy2)
    np.save(folder / "networks/a.npy", np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32))
    threads = torch.get_num_threads()
    evaluate(Committed(folder).plan(*EVALUATE))
    torch.set_num_threads(threads)
    return Committed(folder)


@pytest.fixture
def own_run(evaluated_run, tmp_path):
    """A copy of it."""
    shutil.copytree(evaluated_run.folder, tmp_path / "run", copy_function=shutil.copy2)
    return Committed(tmp_path / "run")
