"""Leftovers of interrupted attempts in a store, and when they may be deleted while other runs are at work.

Files whose unit has no receipt are deleted once they are older than a grace period: their attempt may be alive,
but commits within seconds of its first file, or as long as it waits for the store. Files of another attempt than the
receipt's are deleted at once if `create` is exclusive: their attempt can no longer commit. Files listed by a receipt
that was set aside as damaged stay with it.
"""

import itertools
import time
from collections.abc import Iterator

from infra.damage import DAMAGED
from infra.errors import BundleError
from infra.receipts import BUNDLES, RECEIPTS, Address, Ledger, attempt_of
from infra.stores.store import Entry

GRACE_S = 24 * 3600.0


def leftovers(ledger: Ledger, grace_s: float = GRACE_S) -> list[Entry]:
    """Return the files that no receipt lists and that can no longer be committed; delete nothing.

    Two listings, of receipts and of bundles; only receipts of units with several attempts are read.
    """
    receipts = ledger.store.list(f"{RECEIPTS}/")
    done = {entry.name.removeprefix(f"{RECEIPTS}/").removesuffix(".json") for entry in receipts}
    evidence = {attempt_of(ledger.store.read(entry.name)) for entry in ledger.store.list(f"{DAMAGED}/")}
    unlisted = _unlisted(ledger, done, time.time() - grace_s)
    return [entry for entry in unlisted if entry.name.split("/")[-2] not in evidence]


def collect(ledger: Ledger, grace_s: float = GRACE_S) -> int:
    """Delete files that no receipt lists and that can no longer be committed; return their number.

    With `grace_s=0` only for use when no run is active.
    """
    before = time.time() - grace_s
    left = [entry.name for entry in leftovers(ledger, grace_s)]
    ledger.store.delete(left)
    return len(left) + ledger.store.sweep(before=before)


def _unlisted(ledger: Ledger, done: set[str], before: float) -> Iterator[Entry]:
    listed = ledger.store.list(f"{BUNDLES}/")  # sorted, so that the files of a unit are neighbours
    for unit, files in itertools.groupby(listed, _unit):
        entries = list(files)
        old = [entry for entry in entries if entry.modified < before]
        if unit not in done:
            yield from old
        elif len({entry.name.rpartition("/")[0] for entry in entries}) > 1:
            kept = _kept(ledger, unit)
            superseded = entries if ledger.store.conditional else old
            yield from (entry for entry in superseded if kept is not None and entry.name not in kept)


def _unit(entry: Entry) -> str:
    """Return stage, fingerprint and unit of a bundle's file, as in the names of receipts."""
    return entry.name.removeprefix(f"{BUNDLES}/").rsplit("/", 2)[0]


def _kept(ledger: Ledger, unit: str) -> set[str] | None:
    """Return the files that a unit's receipt lists, None if unknown."""
    try:
        receipt = ledger.receipt(Address(*unit.split("/", 2)))
    except (BundleError, TypeError):  # not a receipt, or not the name of one
        return None
    return None if receipt is None else {entry.name for entry in receipt.files}
