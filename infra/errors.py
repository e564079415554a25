"""The errors of storage, shards and bundles, drawn in one place.

InfraError
├── StoreError            permanent: no such bucket, access denied, bad address, read-only
│   └── NotFoundError     the file or object is not there
├── TransientError        worth trying again: unreachable, timed out, the server failed
├── ShardError            a shard is not what its scan said it was
└── BundleError           a bundle or receipt is torn, altered or malformed
"""


class InfraError(Exception):
    """Anything that storage, shards, bundles or receipts can raise."""


class StoreError(InfraError):
    """The store refuses for good: trying again changes nothing until a person changes something."""


class NotFoundError(StoreError):
    """The named file or object does not exist."""


class TransientError(InfraError):
    """The store could not be used just now; the same call may succeed later."""


class ShardError(InfraError):
    """A shard cannot be read as it was scanned."""


class BundleError(InfraError):
    """A bundle or its receipt is incomplete, altered or malformed."""
