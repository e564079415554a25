"""The errors of storage, shards and bundles, drawn in one place.

InfraError
├── StoreError            permanent: no such bucket, access denied, bad address, read-only
│   └── NotFoundError     the file or object does not exist
├── ChangedError          the file or object has another version than requested
├── TransientError        worth a retry: unreachable, timed out, the server failed
├── FetchError            a file elsewhere is unavailable, too large, or has another digest than requested
├── ShardError            a shard no longer matches its scan
└── BundleError           a bundle or receipt is truncated, altered or malformed
    └── DamagedBundleError  committed bundles are damaged; their units can run again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class InfraError(Exception):
    """Any error of storage, shards, bundles or receipts."""


class StoreError(InfraError):
    """The store refuses permanently: a retry fails until someone changes something."""


class NotFoundError(StoreError):
    """The named file or object does not exist."""


class ChangedError(InfraError):
    """The named file or object no longer has the requested version."""


class TransientError(InfraError):
    """The store is unavailable at the moment; the same call may succeed later."""


class FetchError(InfraError):
    """A file in object storage or on a web server cannot be fetched, or has another digest."""


class ShardError(InfraError):
    """A shard no longer matches its scan."""


class BundleError(InfraError):
    """A bundle or its receipt is incomplete, altered or malformed."""


@dataclass(frozen=True)
class Damage:
    """One damaged bundle: the place of its receipt, and the damage to it or its files."""

    receipt: str  # its name in the store
    attempt: str | None  # of the receipt; None if the receipt cannot be read
    what: str

    @property
    def stage(self) -> str:
        """The stage that made the bundle."""
        return self.receipt.split("/")[1]

    @property
    def unit(self) -> str:
        """The unit of the bundle."""
        return self.receipt.rpartition("/")[2].removesuffix(".json")

    def __str__(self) -> str:
        return f"{self.stage} unit {self.unit}: {self.what}"


class DamagedBundleError(BundleError):
    """Committed bundles are damaged. With their receipts set aside (`infra.damage`), their units run again."""

    def __init__(self, damages: Sequence[Damage]) -> None:
        self.damages = tuple(dict.fromkeys(damages))
        super().__init__(
            "; ".join(map(str, self.damages)) + "; `verify --repair` sets it aside, and the next run makes it again"
        )

    def __reduce__(self) -> tuple[type[DamagedBundleError], tuple[tuple[Damage, ...]]]:
        return type(self), (self.damages,)
