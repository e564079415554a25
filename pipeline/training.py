"""Runs the segmenter's training data-parallel under Ray Train; with one worker an actor calls `train` itself.

The function that trains is the same in both. Ray Train adds about half a minute for starting its workers, restarts them
when one dies, and hands them the latest state.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model

from stages.errors import StageError
from stages.train_segmenter import Example, Trained, TrainSegmenter, train

MAX_FAILURES = 2
STATE = "state.pt"


def train_on_ray(
    stage: TrainSegmenter,
    load_examples: Callable[[], Sequence[Example]],
    workers: int,
    gpus_per_worker: float,
    *,
    storage_path: str,
    name: str,
    spaces: Sequence[str],
    filesystem: pyarrow.fs.FileSystem | None = None,
    checkpoint_every_s: float = 30.0,
) -> Trained:
    """Return what `train` returns, trained by `workers` processes that survive the loss of one, twice.

    Args:
        stage: the recipe.
        load_examples: called once in each worker, and pickled on the way there; each worker reads every `workers`-th
            example only, so a sequence that loads them when asked keeps memory small.
        workers: how many processes train together.
        gpus_per_worker: 0 trains on CPUs, with gloo; otherwise nccl.
        storage_path: where states are kept, seen by all nodes: a folder or, with `filesystem`, bucket and prefix.
        name: of this training; one that was begun under this name and path goes on from its latest state, so the
            name should follow from the stage's fingerprint.
        spaces: names of the maps' spaces, most editable first.
        filesystem: the store of `storage_path`, where it is no folder.
        checkpoint_every_s: least time between states; a report stops all workers for about two seconds.

    Raises:
        StageError: as `train`, or workers failed more than twice.
    """
    trainer = TorchTrainer(
        _train_in_worker,
        train_loop_config={"job": _Job(stage, load_examples, tuple(spaces), checkpoint_every_s)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": 1, **({"GPU": gpus_per_worker} if gpus_per_worker else {})},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise StageError(f"train_segmenter failed on {workers} workers: {error}") from error
    assert isinstance(result.return_value, Trained)
    return result.return_value


@dataclass(frozen=True)
class _Job:
    stage: TrainSegmenter
    load_examples: Callable[[], Sequence[Example]]
    spaces: tuple[str, ...]
    checkpoint_every_s: float


def _train_in_worker(config: dict[str, Any]) -> Any:  # noqa: ANN401 - Ray's types know no result
    job: _Job = config["job"]
    context = ray.train.get_context()
    return train(
        job.stage,
        job.load_examples(),
        get_device(),
        spaces=job.spaces,
        report=_Reporter(job.checkpoint_every_s, get_device()),
        resume=_latest_state(),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        wrap=prepare_model,
    )


def _latest_state() -> bytes | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return (Path(folder) / STATE).read_bytes()


class _Reporter:
    """Hands states to Ray Train, not too often; the first worker's clock decides for all, because all must report."""

    def __init__(self, every_s: float, device: torch.device) -> None:
        self.every_s, self.device, self.latest_s = every_s, device, time.monotonic()

    def __call__(self, state: bytes) -> None:
        due = torch.tensor([time.monotonic() - self.latest_s >= self.every_s], dtype=torch.int32, device=self.device)
        torch.distributed.broadcast(due, src=0)
        if not due:
            return
        self.latest_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            if state:
                (Path(folder) / STATE).write_bytes(state)
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder) if state else None)
