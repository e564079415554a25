"""The resources of a stage's workers: what the configuration requests, of what Ray has."""

from __future__ import annotations

import ray

from pipeline.config import Compute
from pipeline.errors import RunError
from pipeline.execution.hosts import Size
from pipeline.execution.supervisor import Resources


def resources_of(compute: Compute, *, use_gpu: bool = True) -> Resources:
    """Return the number and size of workers, and their deadlines, on the cluster that Ray is connected to.

    Raises:
        RunError: a worker needs more GPUs than there are.
    """
    there = ray.cluster_resources()
    gpus, cpus = there.get("GPU", 0.0), there.get("CPU", 1.0)
    per_worker = compute.gpus_per_worker if compute.gpus_per_worker is not None else min(gpus, 1.0)
    per_worker = per_worker if use_gpu else 0.0
    if per_worker > gpus:
        raise RunError(
            f"compute.gpus_per_worker is {per_worker}, but Ray knows {gpus:g} GPUs; lower it or add machines"
        )
    fitting = gpus // per_worker if per_worker else cpus // compute.cpus_per_worker
    return Resources(
        workers=compute.workers or max(1, int(fitting)),
        size=Size(per_worker, compute.cpus_per_worker),
        unit_deadline_s=compute.unit_deadline_s,
        open_deadline_s=compute.open_deadline_s,
        attempts=compute.attempts,
        lost_workers=compute.lost_workers,
    )
