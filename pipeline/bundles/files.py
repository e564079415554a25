"""The files of bundles by the names that an index gives: whole and compared with receipts, or a range of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from infra.bundles import read_npz, require_end
from infra.errors import BundleError, NotFoundError
from infra.receipts import BUNDLES, Address, Ledger
from stages.inversion.packing import CodesError

REMEDY = "run `invertmill verify CONFIG --repair`, then `invertmill run CONFIG`"


def whole_file(ledger: Ledger, name: str) -> bytes:
    """Return a file of a bundle.

    Its checksum is compared with the receipt of its bundle, unless there is none or the bundle was made again since the
    index was published.

    Raises:
        BundleError: it is missing or damaged; the message names the unit and the remedy.
    """
    address, attempt, filename = _place_of(name)
    receipt = ledger.receipt(address)
    if receipt is not None and receipt.attempt == attempt:
        return ledger.read_file(receipt, filename)
    try:
        data = ledger.store.read(name)
        if name.endswith(".tar"):
            require_end(data)
    except NotFoundError as error:
        raise BundleError(_missing(address, name)) from error
    except BundleError as error:
        raise BundleError(f"{address}: {name}: {error}; {REMEDY}") from error
    return data


def read_range(ledger: Ledger, name: str, offset: int, size: int) -> bytes:
    """Return some bytes of a file by one ranged read; raise `BundleError` as `whole_file`, or if it ends before."""
    address, _, _ = _place_of(name)
    try:
        data = ledger.store.read(name, offset, offset + size)
    except NotFoundError as error:
        raise BundleError(_missing(address, name)) from error
    if len(data) < size:
        raise BundleError(
            f"{address}: {name} is truncated, it has {len(data)} of the {size} bytes at {offset}; {REMEDY}"
        )
    return data


def npz_of(name: str, key: str, data: bytes) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of an image's npz; raise `BundleError` with unit, key and remedy if it is damaged."""
    try:
        return read_npz(data)
    except BundleError as error:
        raise BundleError(
            f"{_place_of(name)[0]}: the codes of {key} in {name} are damaged: {error}; {REMEDY}"
        ) from error


@contextmanager
def readable(name: str, key: str) -> Iterator[None]:
    """Name unit and key of codes that cannot be unpacked."""
    try:
        yield
    except CodesError as error:
        raise BundleError(f"{_place_of(name)[0]}: {key} in {name}: {error}") from error


def _place_of(name: str) -> tuple[Address, str, str]:
    parts = name.split("/")
    if len(parts) != 6 or parts[0] != BUNDLES:
        raise BundleError(f"{name!r} is not the name of a bundle's file, BUNDLES/STAGE/FINGERPRINT/UNIT/ATTEMPT/FILE")
    _, stage, fingerprint, unit, attempt, filename = parts
    return Address(stage, fingerprint, unit), attempt, filename


def _missing(address: Address, name: str) -> str:
    return (
        f"{address}: {name} is missing. Copy the whole store if this is a copy; if the unit was made again since, open "
        f"the store's present version; otherwise {REMEDY}"
    )
