"""The bundles that a verification has read and found whole, so that it can be continued after an interruption."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from infra.receipts import AnyReceipt

NAME = "verified.txt"
"""The file in a run's local folder, while a verification has not ended."""


class Verified:
    """Lines of a file: a receipt's name and attempt each. Files of bundles never change, so a line stays true."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        """Begin, or continue what was interrupted; without notes where the folder cannot be written."""
        self._path, self._known = folder / NAME, set[str]()
        with contextlib.suppress(OSError):
            self._known = set(self._path.read_text().split("\n")) - {""} if resume else set()
        if not resume:
            self.end()

    def __contains__(self, receipt: AnyReceipt) -> bool:
        """Return whether a bundle was whole when its files were read."""
        return _line(receipt) in self._known

    def __len__(self) -> int:
        """Return the number of bundles that were read before."""
        return len(self._known)

    def add(self, receipts: Iterable[AnyReceipt]) -> None:
        """Note bundles that are whole."""
        lines = [_line(receipt) for receipt in receipts]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write("".join(f"\n{line}" for line in lines))  # the last line before may be truncated

    def end(self) -> None:
        """Delete the notes: the next verification reads everything."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _line(receipt: AnyReceipt) -> str:
    return f"{receipt.address.receipt_name} {receipt.attempt}"
