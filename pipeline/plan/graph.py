"""The stages of a run: one table. Order, upstream, status rows, planning and publishing follow from what each reads."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from pydantic import BaseModel

from pipeline.config import RunConfig
from pipeline.stage_settings import stages_in
from stages.base.stage import GraphStage, Stage


def maps_samples(stage: type[GraphStage]) -> TypeGuard[type[Stage]]:
    """Return whether a stage maps samples to records, while others make one result of all."""
    return issubclass(stage, Stage)


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which each comes after those that it reads."""

    stages: tuple[type[GraphStage], ...]
    optional: frozenset[str] = frozenset()  # names of stages that a run computes only if they are configured

    @classmethod
    def from_config(cls, config: type[BaseModel]) -> Graph:
        """Return the graph of the stages that have sections in a configuration."""
        stages = dict(stages_in(config))
        return cls.from_stages(stages, {stage.name for stage, optional in stages.items() if optional})

    @classmethod
    def from_stages(cls, stages: Iterable[type[GraphStage]], optional: Iterable[str] = ()) -> Graph:
        """Return the graph of some stages; where they leave the order open, it is the given one.

        Raises:
            ValueError: two have one name, or one reads a stage that is not among them, or indirectly itself.
        """
        given = tuple(stages)
        left = {stage.name: stage for stage in given}
        if len(left) < len(given):
            raise ValueError(f"two stages have one name: {[stage.name for stage in given]}")
        for stage in given:
            if unknown := set(stage.reads) - left.keys():
                raise ValueError(f"{stage.name} reads {sorted(unknown)}, but the stages are {list(left)}")
        ordered: list[type[GraphStage]] = []
        while left:
            ready = next((stage for stage in left.values() if not left.keys() & set(stage.reads)), None)
            if ready is None:
                raise ValueError(f"stages read each other in a circle: {list(left)}")
            ordered.append(left.pop(ready.name))
        return cls(tuple(ordered), frozenset(optional))

    @property
    def by_name(self) -> Mapping[str, type[GraphStage]]:
        """The stages by their names, in order."""
        return {stage.name: stage for stage in self.stages}

    def computed(self, config: BaseModel) -> tuple[type[GraphStage], ...]:
        """Return the stages that a run of this configuration computes."""
        return tuple(stage for stage in self.stages if not stage.on_demand and getattr(config, stage.name) is not None)

    def upstream(self, stage: type[GraphStage]) -> tuple[type[Stage], ...]:
        """Return the stages whose records a stage gets, in its order."""
        read = (self.by_name[name] for name in stage.reads)
        return tuple(filter(maps_samples, read))

    @functools.cached_property
    def last(self) -> type[Stage]:
        """The stage whose result is published: it maps all samples of every run, and no other such stage reads it.

        Raises:
            ValueError: there is not exactly one.
        """
        always = (stage for stage in self.stages if not stage.on_demand and stage.name not in self.optional)
        mapped = [stage for stage in filter(maps_samples, always) if not stage.supervision_only]
        read = {name for stage in mapped for name in stage.reads}
        last = [stage for stage in mapped if stage.name not in read]
        if len(last) != 1:
            raise ValueError(f"exactly one stage must be the last of a run, got {[stage.name for stage in last]}")
        return last[0]


GRAPH = Graph.from_config(RunConfig)
