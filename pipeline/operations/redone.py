"""Warnings of a plan: settings that make a run redo what the store already has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra.errors import BundleError
from infra.receipts import Ledger
from pipeline.data.units import Unit
from pipeline.plan.plan import Plan
from pipeline.publish.pointer import read_pointer
from pipeline.publish.settings import portable_settings

SHOWN = 5
"""Number of settings that a warning names."""


def other_cut(held: set[str], wanted: Iterable[Unit]) -> int | None:
    """Return the samples per unit of the stored units that replace missing ones; None if the store has none."""
    names, missing = set[str](), set[str]()
    for unit in wanted:
        names.add(unit.name)
        if unit.name not in held:
            missing.add(unit.shard.slug)
    cuts = (name.rsplit("-", 2) for name in held - names)
    return max((int(stop) - int(first) for slug, first, stop in cuts if slug in missing), default=None)


def cut_warning(plan: Plan, held: set[str], wanted: Iterable[Unit]) -> str | None:
    """Return a warning if units are cut differently from the stored ones."""
    size = other_cut(held, wanted)
    if size is None or size == plan.config.unit_samples:
        return None
    return (
        f"unit_samples is {plan.config.unit_samples}, the store was made with {size}: every unit of every stage is "
        f"done again; set unit_samples to {size} to keep what is there"
    )


def settings_warning(plan: Plan, stages: Iterable[tuple[str, str | None]]) -> str | None:
    """Return a warning if whole stages, given with their fingerprints, are done again under other settings."""
    again = [name for name, fingerprint in stages if _is_new(plan.ledger, name, fingerprint)]
    if not again:
        return None
    changed = list(_changed(plan))
    reasons = "; ".join(changed[:SHOWN]) + (f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")
    reasons = reasons or "other weights, or another version of the stage"
    return f"done again, though the store has results of other settings: {', '.join(again)} ({reasons})"


def _is_new(ledger: Ledger, stage: str, fingerprint: str | None) -> bool:
    held = ledger.fingerprints(stage)
    return bool(held) and fingerprint not in held


def _changed(plan: Plan) -> Iterator[str]:
    """Yield the settings that differ from those of the published result."""
    try:
        pointer = read_pointer(plan.ledger)
    except BundleError:
        return
    if pointer is None or not pointer.settings:
        return
    before, now = dict(_flat(pointer.settings)), dict(_flat(portable_settings(plan.config)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name} is {now.get(name)}, was {before.get(name)}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
