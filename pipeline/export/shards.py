"""Tars of codes for an export: the members of bundles, copied into few large files that stock webdataset reads."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BundleError
from infra.shards.shards import add_member, split_name
from infra.stores.os_errors import explained

MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Placed:
    """Where the codes of an image are: a tar, the member, and the member's first byte and size."""

    tar: str
    member: str
    offset: int
    size: int


class ShardWriter:
    """Writes members of samples to `000000.tar`, `000001.tar`, …

    A tar ends when it is large enough, and before a key that it has already: stock tools tell samples by key alone.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._number, self._keys = itertools.count(), set[str]()
        self._archive: tarfile.TarFile | None = None
        self._name = ""

    def add(self, key: str, members: dict[str, bytes]) -> Placed:
        """Write the members of a sample, by what follows the key in their names; return the place of the first."""
        archive = self._open(key)
        placed = None
        for name, data in members.items():
            add_member(archive, key, name, data)
            if placed is None:
                padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                placed = Placed(self._name, f"{key}.{name}", archive.offset - padded, len(data))
        if placed is None:
            raise BundleError(f"{key} has no codes")
        return placed

    def close(self) -> None:
        """Finish the last tar."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def _open(self, key: str) -> tarfile.TarFile:
        if self._archive is not None and (key in self._keys or self._archive.offset >= self._most_bytes):
            self.close()
        if self._archive is None:
            self._name, self._keys = f"{next(self._number):06d}.tar", set()
            with explained(self._folder, "write to"):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._archive = tarfile.open(self._folder / self._name, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._keys.add(key)
        return self._archive


def members_of(data: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each sample of a bundle's tar."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        named = ((split_name(info.name), info) for info in archive)
        for key, infos in itertools.groupby(named, key=lambda pair: pair[0][0] if pair[0] else ""):
            found = {}
            for split, info in infos:
                content = archive.extractfile(info)
                if split is None or content is None:
                    raise BundleError(f"member {info.name!r} is not a KEY.NAME; this tar was not written as a bundle")
                found[split[1]] = content.read()
            yield key, found
