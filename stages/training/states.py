"""The state that an unfinished training resumes from: kept at intervals, and used only by the same training."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from pydantic import BaseModel

from generators.errors import CheckpointError
from generators.weight_files import read_state
from stages.base.errors import StageError
from stages.training.workers import Workers

FOREIGN = (CheckpointError, RuntimeError, KeyError, TypeError, ValueError)  # what a wrong state raises


class States(Protocol):
    """Keeps the latest state of an unfinished training. The first worker's is used, and asked after every step."""

    def load(self) -> bytes | None:
        """Return the state kept last, None if there is none."""

    def due(self) -> bool:
        """Return whether a state should be kept now."""

    def keep(self, state: bytes) -> None:
        """Keep a state instead of the last one."""

    def close(self) -> None:
        """Return when the last state is kept."""


def identity_of(stage: BaseModel, indifferent: Mapping[str, Any], *facts: object) -> str:
    """Return a digest of what may not change between a state and its resumption.

    Args:
        stage: its settings.
        indifferent: the fields that may change, as pydantic's `exclude` takes them.
        facts: of the examples, such as the names of their units; each has a `repr` that tells them apart.
    """
    settings = stage.model_dump_json(exclude=dict(indifferent))
    return hashlib.sha256(repr((settings, *facts)).encode()).hexdigest()


def packed(state: dict[str, Any]) -> bytes:
    """Return a state as bytes."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@contextmanager
def resumed(
    states: States | None, workers: Workers, identity: str, device: torch.device, stage: str
) -> Iterator[dict[str, Any] | None]:
    """Give the kept state of the same training, None if there is none; the last state is kept when the context ends.

    Args:
        states: of this training; None keeps none.
        workers: all get the state of the first.
        identity: as `identity_of`.
        device: of the state's tensors.
        stage: its name, for messages.

    Raises:
        StageError: as `opened`.
    """
    kept = workers.of_first(states.load() if states is not None and workers.rank == 0 else None)
    state = None if kept is None else opened(kept, identity, device, stage)
    try:
        yield state
    finally:
        if states is not None:
            states.close()


def opened(data: bytes, identity: str, device: torch.device, stage: str) -> dict[str, Any]:
    """Return a kept state; raise StageError if it is damaged or of another training."""
    try:
        state = read_state(data, device)
        if not isinstance(state, dict) or state["identity"] != identity:
            raise ValueError("it belongs to other settings, spaces or examples")
    except FOREIGN as error:
        raise StageError(
            f"the state to resume {stage} from is unusable ({error}): delete it, and training starts from the beginning"
        ) from error
    return state
