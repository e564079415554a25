"""Files of a model in this machine's Hugging Face cache, checked by the digests that name them.

The cache keeps a file under its digest (`blobs/DIGEST`) and links to it under its name: SHA-256 for large files, and
git's SHA-1 for small ones. Files that are not such links, as on systems without them, have no digest to check.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def drop_damaged(snapshot: Path) -> list[str]:
    """Delete the files of a snapshot that do not match their digests, and return their names."""
    damaged = []
    for path in sorted(snapshot.rglob("*")):
        if path.is_symlink() and (path.is_file() or not path.exists()) and not _is_whole(path):
            path.resolve().unlink(missing_ok=True)
            path.unlink()
            damaged.append(str(path.relative_to(snapshot)))
    return damaged


def _is_whole(link: Path) -> bool:
    blob = link.resolve()
    if not _DIGEST.fullmatch(blob.name):
        return True
    if not blob.is_file():
        return False
    if len(blob.name) == 64:
        with blob.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
    data = blob.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return git.hexdigest() == blob.name
