"""The images that methods are compared on: held-out ones, the same while the data stays, and their units."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infra.receipts import ReceiptHead
from pipeline.data.reading import Cut
from pipeline.data.units import Selection, Shard, Unit, cut, read_inventory
from pipeline.errors import RunError
from pipeline.plan.plan import Plan
from stages.base.stage import sample_seed
from stages.segmenter.choice import Published

Name = tuple[str, str]
"""Shard and key of a sample."""


@dataclass(frozen=True)
class NamedSamples(Selection):
    """Samples chosen by name."""

    names: frozenset[Name] = frozenset()

    def includes(self, shard: str, key: str) -> bool:
        """Return whether a sample is among them."""
        return (shard, key) in self.names

    def may_include(self, shard: str) -> bool:
        """Return whether any sample of a shard is among them."""
        return any(name == shard for name, _ in self.names)


@dataclass(frozen=True)
class PartialUnit(Unit):
    """Consecutive samples among some of a shard's; the digest says which, so that a bundle never holds others."""

    digest: str = ""

    @property
    def name(self) -> str:
        """The unit's part of a bundle's address."""
        return f"{super().name}-of-{self.digest}"


@dataclass(frozen=True)
class Sampled:
    """The images of a method.

    `units` hold them and nothing else: those of a run where a whole shard is taken, so that both share bundles.
    `needed` are the units of a run that hold them, and `cuts` how a run cuts the shards of these.
    """

    selection: NamedSamples
    units: tuple[Unit, ...]
    needed: tuple[Unit, ...]
    cut: Cut


def choose(plan: Plan, shards: Mapping[Shard, ReceiptHead], count: int) -> list[Name]:
    """Return the names of up to `count` held-out samples, those with the smallest hash first.

    Where a published segmenter is used, this run has trained on no sample, and all may be chosen.

    Raises:
        RunError: there are none.
    """
    trained, supervision = not isinstance(plan.config.segmenter, Published), plan.supervision

    def names() -> Iterator[tuple[int, Name]]:
        for shard, head in shards.items():
            if trained and not supervision.may_include(shard.name):
                continue
            for sample in read_inventory(plan.ledger, head):
                held_out = not trained or supervision.role(shard.name, sample.key) == "held_out"
                if held_out and sample.fault is None and not sample.repeated:
                    yield sample_seed(0, f"evaluate:{shard.name}:{sample.key}"), (shard.name, sample.key)

    chosen = [name for _, name in heapq.nsmallest(count, names())]
    if not chosen:
        raise RunError(
            "there is nothing to evaluate on: no sample is held out; set supervision.held_out_shards, or a "
            "supervision.held_out_share above 0"
        )
    return chosen


def sampled(plan: Plan, shards: Mapping[Shard, ReceiptHead], names: frozenset[Name]) -> Sampled:
    """Return some samples with the units that hold them."""
    selection, size = NamedSamples(names=names), plan.config.unit_samples
    units, needed, every = list[Unit](), list[Unit](), list[Unit]()
    for shard, head in shards.items():
        if not selection.may_include(shard.name):
            continue
        keys = [sample.key for sample in read_inventory(plan.ledger, head)]
        taken = [key for key in keys if selection.includes(shard.name, key)]
        of_run = list(cut(shard, len(keys), size))
        every += of_run
        needed += [
            unit for unit in of_run if any(selection.includes(shard.name, k) for k in keys[unit.first : unit.stop])
        ]
        units += of_run if len(taken) == len(keys) else _partial(shard, taken, size)
    return Sampled(selection, tuple(units), tuple(needed), Cut(plan.everything, every))


def _partial(shard: Shard, keys: list[str], size: int) -> Iterator[Unit]:
    for unit in cut(shard, len(keys), size):
        digest = hashlib.sha256(json.dumps(keys[unit.first : unit.stop]).encode()).hexdigest()[:12]
        yield PartialUnit(unit.shard, unit.first, unit.stop, digest)
