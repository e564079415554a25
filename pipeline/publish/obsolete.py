"""Replaced indexes, and parts that no index includes any more: what may be deleted of what was published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from infra.errors import BundleError
from infra.receipts import RECEIPTS, FileEntry, Ledger, Receipt
from infra.stores.store import Entry
from pipeline.data.receipt_info import LeadsTo
from pipeline.errors import RunError
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.publish.contents import STAGE, included_parts
from pipeline.publish.contents import UNIT as PART
from pipeline.publish.pointer import Pointer, address_in, read_pointer


@dataclass(frozen=True)
class ObsoleteBundle:
    """A bundle that may be deleted: its receipt first, so that no reader sees a part of it, then its own files."""

    receipt: Entry
    files: tuple[FileEntry, ...]

    @property
    def names(self) -> list[str]:
        """The receipt, then the files."""
        return [self.receipt.name, *(file.name for file in self.files)]

    @property
    def size_bytes(self) -> int:
        """The size of all of them."""
        return self.receipt.size + sum(file.size for file in self.files)


@dataclass(frozen=True)
class _Published:
    """The receipts of indexes and of parts in a store."""

    pointer: Pointer | None
    kept: tuple[Entry, ...]
    replaced: tuple[Entry, ...]
    parts: tuple[Entry, ...]

    @classmethod
    def listed(cls, ledger: Ledger, keep: int, before: float) -> _Published:
        pointer = read_pointer(ledger)
        pointed = pointer.receipts if pointer is not None else set()
        kinds = defaultdict[str, list[Entry]](list)
        for entry in ledger.store.list(f"{RECEIPTS}/{STAGE}/"):
            kinds[entry.name.rpartition("/")[2]].append(entry)
        parts, kept, replaced = kinds.pop(f"{PART}.json", []), list[Entry](), list[Entry]()
        for entries in kinds.values():
            entries.sort(key=lambda entry: entry.modified)
            for number, entry in enumerate(entries, 1):
                newer = entries[number:]
                stays = len(newer) < max(1, keep) or newer[0].modified >= before or entry.name in pointed
                (kept if stays else replaced).append(entry)
        return cls(pointer, tuple(kept), tuple(replaced), tuple(parts))


def obsolete_bundles(ledger: Ledger, *, keep: int, before: float) -> Iterator[ObsoleteBundle]:
    """Yield indexes that are neither pointed to nor among the newest, and the parts that only they include.

    Args:
        ledger: of the store.
        keep: how many of the newest indexes of each kind stay.
        before: a moment in seconds since 1970. An index goes if its successor is older, since readers may still use
            it until then; a part goes if it is older itself, since an index that includes it may be in the making.
    """
    published = _Published.listed(ledger, keep, before)
    for entry in published.replaced:
        yield _bundle(ledger, entry)
    used = _included(ledger, published.kept) if published.parts else set()
    if used is None:
        return
    for entry in published.parts:
        if entry.modified < before and entry.name.split("/")[2] not in used:
            yield _bundle(ledger, entry)


def kept_fingerprints(ledger: Ledger, *, keep: int, before: float) -> Mapping[str, set[str]]:
    """Return the fingerprints of the stages whose results the kept indexes lead to, by stage.

    Raises:
        RunError: a kept index does not state them.
    """
    published, found = _Published.listed(ledger, keep, before), defaultdict[str, set[str]](set)
    for entry in published.kept:
        receipt = _receipt(ledger, entry)
        stages = None if receipt is None else LeadsTo.from_receipt(receipt).stages
        if stages is None and published.pointer is not None and entry.name in published.pointer.receipts:
            stages = _pointed_to(published.pointer)
        if stages is None:
            raise RunError(
                f"{entry.name} does not state which results it leads to, since an earlier version wrote it: keep fewer "
                "published versions, so that it goes first"
            )
        for name, digest in stages.items():
            found[name].add(digest)
    return found


def _pointed_to(pointer: Pointer) -> Mapping[str, str]:
    """Return the fingerprints that a pointer states, those of stages with an index of their own included."""
    stages = dict(pointer.stages)
    for stage in filter(maps_samples, GRAPH.stages):
        if stage.own_index is not None and stage.own_index.name in pointer.own:
            stages[stage.name] = pointer.own[stage.own_index.name].fingerprint
    return stages


def _bundle(ledger: Ledger, entry: Entry) -> ObsoleteBundle:
    """Return a bundle with its own files; those of a damaged receipt are found as leftovers later."""
    receipt = _receipt(ledger, entry)
    if receipt is None:
        return ObsoleteBundle(entry, ())
    own = receipt.address.bundle_prefix
    return ObsoleteBundle(entry, tuple(file for file in receipt.files if file.name.startswith(own)))


def _included(ledger: Ledger, indexes: Iterable[Entry]) -> set[str] | None:
    """Return what the parts that some indexes include are made of, None if a receipt cannot be read."""
    used = set[str]()
    for entry in indexes:
        receipt = _receipt(ledger, entry)
        if receipt is None:
            return None
        used |= {address.fingerprint for address in included_parts(receipt)}
    return used


def _receipt(ledger: Ledger, entry: Entry) -> Receipt | None:
    try:
        return ledger.receipt(address_in(ledger, entry.name))
    except BundleError:
        return None
