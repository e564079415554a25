"""The result of the search for shards."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.stores.store import Entry, Store

CHECK = "check the address and the pattern"


@dataclass(frozen=True)
class Found:
    """Shards, sorted by name, in the store of their common folder; and what had to be skipped."""

    store: Store
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def some(names: Sequence[str], what: str) -> str:
    """Return the number of names, and the first of them."""
    return f"{len(names)} {what}, the first is {min(names)!r}"
