"""Run a training data-parallel under Ray Train; with one worker, an actor runs the job itself.

The training function is the same in both, and so is the place of its states: the run's store. Ray Train needs
about half a minute for starting its workers, and restarts all of them when one dies.
"""

from __future__ import annotations

import tempfile
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model

from pipeline.training.job import Result, TrainingJob
from stages.base.device import choose_kernels
from stages.base.errors import StageError
from stages.training.workers import Workers

MAX_FAILURES = 2


def train_on_ray(job: TrainingJob[Result], workers: int, gpus_per_worker: float) -> Result:
    """Return the result of a training, run by `workers` processes that survive the loss of one, twice.

    Args:
        job: the training; pickled on the way to the workers. It resumes from its latest state, if it has one.
        workers: number of processes.
        gpus_per_worker: 0 trains on CPUs, with gloo; otherwise nccl.

    Raises:
        StageError: as the training, or workers failed more than twice.
    """
    with tempfile.TemporaryDirectory() as folder:  # Ray Train needs one, although nothing is reported to it
        trainer = TorchTrainer(
            _train_in_worker,
            train_loop_config={"job": job},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_per_worker > 0,
                resources_per_worker={"CPU": job.threads, **({"GPU": gpus_per_worker} if gpus_per_worker else {})},
            ),
            run_config=ray.train.RunConfig(
                name=job.address.fingerprint,
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        try:
            result: Any = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise StageError(f"{job.name} failed on {workers} workers: {error}") from error
    trained: Result = result.return_value
    return trained


def _train_in_worker(config: dict[str, Any]) -> Any:  # noqa: ANN401 - Ray's types know no result
    job: TrainingJob[Any] = config["job"]
    torch.set_num_threads(job.threads)
    choose_kernels("tf32")
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    return job.trained(get_device(), workers, prepare_model)
