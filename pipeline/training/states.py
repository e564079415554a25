"""The state of an unfinished training: one object in the run's store, replaced at intervals, deleted at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from infra.errors import NotFoundError
from infra.stores.store import Store

FOLDER = "training"
_CHECKSUM_BYTES = hashlib.sha256().digest_size


class StoredStates:
    """The `States` of one training, written on another thread, so that training does not wait for the store.

    A state belongs to a recipe and to its training units: if there are others now, training starts from
    the beginning, and its first state replaces the old one.
    """

    def __init__(self, store: Store, fingerprint: str, units: Sequence[str], every_s: float) -> None:
        digest = hashlib.sha256(json.dumps(list(units)).encode()).hexdigest()[:16]
        self._store, self._name, self._every_s = store, f"{_prefix(fingerprint)}{digest}", every_s
        self._fingerprint, self._alone = fingerprint, False
        self._kept_at = time.monotonic()
        self._writer = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None

    def load(self) -> bytes | None:
        """Return the last state that was stored; None if there is none, or if it was altered."""
        try:
            return state_in(self._store.read(self._name))
        except NotFoundError:
            return None

    def due(self) -> bool:
        """Return whether the interval is over and the last state stored; raise the error of storing that one."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        return self._writing is None and time.monotonic() - self._kept_at >= self._every_s

    def keep(self, state: bytes) -> None:
        """Start storing a state."""
        self._kept_at = time.monotonic()
        self._writing = self._writer.submit(self._write, state)

    def _write(self, state: bytes) -> None:
        self._store.write(self._name, hashlib.sha256(state).digest() + state)
        if not self._alone:  # states of the same recipe on other units: nothing will be resumed from them
            self._store.delete([name for name in _names(self._store, self._fingerprint) if name != self._name])
            self._alone = True

    def close(self) -> None:
        """Wait until the last state is stored."""
        self._writer.shutdown()


def state_in(data: bytes) -> bytes | None:
    """Return the state in a stored object, None if it was truncated or altered."""
    checksum, state = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    return state if hashlib.sha256(state).digest() == checksum else None


def drop_states(store: Store, fingerprint: str) -> None:
    """Delete all states of a committed training, including those on other units."""
    store.delete(_names(store, fingerprint))


def _names(store: Store, fingerprint: str) -> list[str]:
    return [entry.name for entry in store.list(_prefix(fingerprint))]


def _prefix(fingerprint: str) -> str:
    return f"{FOLDER}/{fingerprint}/"
