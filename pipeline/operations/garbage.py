"""What a store no longer needs: replaced indexes, dead attempts, states of trainings, results of other settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infra.leftovers import GRACE_S, leftovers
from infra.receipts import BUNDLES, RECEIPTS, Ledger
from infra.stores.store import Entry
from pipeline.errors import RunError
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.plan.plan import Plan
from pipeline.publish.obsolete import kept_fingerprints, obsolete_bundles
from pipeline.training.states import FOLDER as STATES


@dataclass(frozen=True)
class Garbage:
    """Objects that may be deleted for one reason, in the order of their deletion: receipts before their files."""

    reason: str
    names: tuple[str, ...]
    size_bytes: int

    @classmethod
    def from_entries(cls, reason: str, entries: Iterable[Entry]) -> Garbage:
        """Return some objects of a store, in their order."""
        listed = list(entries)
        return cls(reason, tuple(entry.name for entry in listed), sum(entry.size for entry in listed))


def garbage_of(plan: Plan, *, keep: int = 1, superseded: bool = False, grace_s: float = GRACE_S) -> list[Garbage]:
    """Return what may be deleted, by reason; delete nothing. Safe while other runs are at work.

    Args:
        plan: of the run.
        keep: how many of the newest indexes of each kind stay, in addition to those pointed to.
        superseded: whether to include results of stages under settings that neither this configuration, with the
            methods it evaluates, nor a published index needs. A stage that the configuration does not compute keeps all
            of its results.
        grace_s: younger attempts may be alive, and readers may still use indexes replaced since.

    Raises:
        RunError: with `superseded`, what is needed is not known.
    """
    before = time.time() - grace_s
    found = [
        of_indexes(plan.ledger, keep, before),
        Garbage.from_entries("files of attempts that were interrupted", leftovers(plan.ledger, grace_s)),
        of_states(plan, before),
    ]
    if superseded:
        found.append(Garbage.from_entries("results of other settings", _of_other_settings(plan, keep, before)))
    return found


def delete(ledger: Ledger, found: Iterable[Garbage]) -> int:
    """Delete garbage and return the number of objects."""
    count = 0
    for garbage in found:
        ledger.store.delete([name for name in garbage.names if name.startswith(f"{RECEIPTS}/")])
        ledger.store.delete([name for name in garbage.names if not name.startswith(f"{RECEIPTS}/")])
        count += len(garbage.names)
    return count


def of_indexes(ledger: Ledger, keep: int, before: float) -> Garbage:
    """Return the indexes that newer ones replaced, and parts that no index includes."""
    bundles = list(obsolete_bundles(ledger, keep=keep, before=before))
    names = tuple(name for bundle in bundles for name in bundle.names)
    return Garbage("replaced indexes and their parts", names, sum(bundle.size_bytes for bundle in bundles))


def of_states(plan: Plan, before: float) -> Garbage:
    """Return the states of committed trainings, and of those that were not resumed for long."""
    ledger, trainings = plan.ledger, [stage.name for stage in GRAPH.stages if not maps_samples(stage)]
    states = list(ledger.store.list(f"{STATES}/"))
    digests = {_training(state) for state in states}
    done = {digest for digest in digests if any(ledger.units(stage, digest) for stage in trainings)}
    left = (state for state in states if _training(state) in done or state.modified < before)
    return Garbage.from_entries("states of trainings that ended", left)


def _of_other_settings(plan: Plan, keep: int, before: float) -> Iterator[Entry]:
    """Yield the receipts of each fingerprint that nothing needs, then its files."""
    needed = _needed(plan, keep, before)
    for stage in plan.stages:
        if stage.name not in needed:
            continue
        folders = dict[str, list[Entry]]()
        for entry in plan.ledger.store.list(f"{RECEIPTS}/{stage.name}/"):
            folders.setdefault(entry.name.split("/")[2], []).append(entry)
        for fingerprint, receipts in folders.items():
            recent = any(receipt.modified >= before for receipt in receipts)  # another run may be at work
            if fingerprint not in needed[stage.name] and not recent:
                yield from receipts
                yield from plan.ledger.store.list(f"{BUNDLES}/{stage.name}/{fingerprint}/")


def _needed(plan: Plan, keep: int, before: float) -> dict[str, set[str]]:
    """Return the fingerprints that the configuration or a kept index needs, by stage."""
    address = plan.train_segmenter()
    segmenter = plan.ledger.receipt(address)
    if segmenter is None:
        raise RunError(
            "which results are superseded is known only once the segmenter of this configuration is trained; "
            "`invertmill run` comes first"
        )
    needed = {name: {digest} for name, digest in plan.steps(segmenter).fingerprints.items()}
    for method in plan.config.evaluate.methods if plan.config.evaluate is not None else ():
        steps = plan.varied(invert=method.invert, refine_maps=method.refine_maps).map_steps(segmenter)
        needed = {name: digests | {steps.fingerprints.get(name, "")} for name, digests in needed.items()}
    needed |= {name: {training.fingerprint} for name, training in plan.trainings(segmenter).items() if training}
    for name, digests in kept_fingerprints(plan.ledger, keep=keep, before=before).items():
        if name in needed:
            needed[name] |= digests
    return needed


def _training(state: Entry) -> str:
    return state.name.split("/")[1]
