"""The map stages of one run, with their fingerprints; each is requested by its class, never by its position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from infra.receipts import Address
from pipeline.data.trained_networks import TrainedSegmenter
from pipeline.data.units import Selection
from pipeline.plan.graph import GRAPH
from stages.base.stage import Stage

AnyStage = TypeVar("AnyStage", bound=Stage)


@dataclass(frozen=True)
class MapStep:
    """A map stage of this run: the stage, its fingerprint, and the map stages that it reads."""

    stage: Stage
    fingerprint: str
    upstream: Mapping[str, str]
    selection: Selection
    segmenter: TrainedSegmenter | None = None  # workers fetch it before they load the stage
    encoder: Address | None = None  # of the run's own encoder, which the stage uses


class Steps:
    """Map stages of this run, in order; each is requested by its class."""

    def __init__(self, steps: Iterable[MapStep]) -> None:
        self._steps = {step.stage.name: step for step in steps}

    def __iter__(self) -> Iterator[MapStep]:
        return iter(self._steps.values())

    def __getitem__(self, stage: type[Stage]) -> MapStep:
        return self._steps[stage.name]

    def get(self, stage: type[Stage]) -> MapStep | None:
        """Return the step of a stage, None if the run does not compute it."""
        return self._steps.get(stage.name)

    def stage(self, stage: type[AnyStage]) -> AnyStage:
        """Return a stage as this run configures it."""
        configured = self[stage].stage
        assert isinstance(configured, stage)
        return configured

    @property
    def last(self) -> MapStep:
        """The step whose results are published."""
        return self[GRAPH.last]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints by stage."""
        return {name: step.fingerprint for name, step in self._steps.items()}
