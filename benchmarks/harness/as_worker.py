"""Run a benchmark in the environment of a run's worker."""

from __future__ import annotations

import os
import sys

from pipeline.execution.cluster import WORKER_ENVIRONMENT


def as_worker() -> None:
    """Restart the program in a worker's environment if it is not in it: malloc and OpenMP read theirs at start."""
    if any(os.environ.get(name) != value for name, value in WORKER_ENVIRONMENT.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | WORKER_ENVIRONMENT)  # noqa: S606 - the same program
