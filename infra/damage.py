"""Damaged bundles: collected until all are known, then their receipts are set aside so that their units run again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from infra.errors import Damage, DamagedBundleError, NotFoundError
from infra.receipts import RECEIPTS, attempt_of
from infra.stores.store import Store

DAMAGED = "damaged"
"""Prefix of the names of receipts that were set aside."""


class Damages:
    """Damage found in a pass over many bundles, so that one pass finds all of it."""

    def __init__(self) -> None:
        self.found: list[Damage] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Record the damage that stops the block, and continue after it."""
        try:
            yield
        except DamagedBundleError as error:
            self.found += error.damages

    def check(self) -> None:
        """Raise `DamagedBundleError` with all recorded damage, if there is any."""
        if self.found:
            raise DamagedBundleError(self.found)


def set_aside(store: Store, damage: Damage) -> str | None:
    """Move the receipt of a damaged bundle to `damaged/`, where no reader sees it, and return its name there.

    The unit then has no bundle and runs again. Returns None, and moves nothing, if the receipt is gone or another
    attempt's by now: another process has repaired it.
    """
    try:
        data = store.read(damage.receipt)
    except NotFoundError:
        return None
    if attempt_of(data) != damage.attempt:
        return None
    place = damage.receipt.removeprefix(f"{RECEIPTS}/").removesuffix(".json")
    name = f"{DAMAGED}/{place}.{hashlib.sha256(data).hexdigest()[:8]}.json"
    store.write(name, data)
    store.delete([damage.receipt])
    return name
