"""A store in a folder of a filesystem."""

import contextlib
import errno
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from infra.errors import ChangedError, NotFoundError, StoreError
from infra.files import partial_path
from infra.stores.os_errors import explained
from infra.stores.store import Entry, Store, StoreOptions, checked_name, is_reserved

SCHEME = "file"
Options = StoreOptions

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_FOLDER_ATTEMPTS = 20


def at(url: str, _options: StoreOptions) -> Store:
    """Return the store at `file:///FOLDER`; raise `StoreError` if the address names another machine."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"a file address cannot name another machine, got {url!r}; write file:///FOLDER")
    return FolderStore(unquote(parts.path))


class FolderStore(Store):
    """Files below one folder.

    A file appears under its name only when all of it is on the disk: it is written in the same folder under a hidden
    name, flushed, and then renamed (`write`) or hard-linked (`create`, which guarantees one winner).
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()
        self.url = str(self.root)
        self._conditional: bool | None = None

    def __reduce__(self) -> tuple[type["FolderStore"], tuple[str]]:
        return FolderStore, (self.url,)

    @property
    def conditional(self) -> bool:
        """Whether the filesystem has hard links, which make creation exclusive; tried once."""
        if self._conditional is None:
            with explained(self.root, "probe"):
                self._conditional = self._has_hard_links()
        return self._conditional

    def check(self, write: bool = True) -> None:
        """Return if the folder exists and is readable, and with `write` (which creates it) writable.

        Raises `StoreError` with the remedy otherwise.
        """
        if not write and not self.root.is_dir():
            raise NotFoundError(f"there is no folder {self.url}; correct the path, or put the shards there")
        with explained(self.root, "write to" if write else "read"):
            if write:
                _make_folder(self.root)
                self._staged(self.root / "check", b"").unlink()
            os.scandir(self.root).close()

    def read(self, name: str, start: int = 0, stop: int | None = None, version: str | None = None) -> bytes:
        """Return the bytes `[start, stop)` of a file. Raises `NotFoundError` if there is none.

        Raises `ChangedError` if its size or modification time differ from the version.
        """
        path = f"{self.root}/{checked_name(name)}"  # a path object takes longer than reading a small file
        with explained(path, "open"):
            stream = open(path, "rb")  # noqa: PTH123, SIM115
        with stream, explained(path, "read"):
            if start:
                stream.seek(start)
            data = stream.read() if stop is None else stream.read(max(0, stop - start))
            found = None if version is None else entry_of(name, os.fstat(stream.fileno())).version
        if version != found:
            raise ChangedError(f"the size and modification time of {self.root / name} have changed since it was listed")
        return data

    def open(self, name: str) -> BinaryIO:
        """Return a buffered reader of a file. Raises `NotFoundError` if there is none."""
        path = self.root / checked_name(name)
        with explained(path, "open"):
            return path.open("rb")

    def write(self, name: str, data: bytes | Path) -> None:
        """Replace a file of this name, by renaming a flushed copy."""
        path = self.root / checked_name(name)
        with explained(path, "write"):
            staged = self._staged(path, data)
            try:
                staged.replace(path)
            except OSError:
                staged.unlink(missing_ok=True)
                raise
            _flush(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        """Return True if this call made the file, False if it existed."""
        path = self.root / checked_name(name)
        if self.exists(name):
            return False
        if not self.conditional:
            self.write(name, data)
            return True
        with explained(path, "create"):
            staged = self._staged(path, data)
            try:
                os.link(staged, path)
            except FileExistsError:
                return False
            finally:
                staged.unlink(missing_ok=True)
            _flush(path.parent)
            return True

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        path = self.root / checked_name(name)
        with explained(path, "look at"):
            return path.is_file()

    def entry(self, name: str) -> Entry | None:
        """Return the entry of a file, None if there is none."""
        path = self.root / checked_name(name)
        with explained(path, "look at"):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return entry_of(name, status) if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """Yield the files whose names begin with `prefix`, sorted by name; none if the folder is missing."""
        with explained(self.root / prefix, "list"):
            found = [name for name in self._names(prefix, deep=deep) if not is_reserved(name)]
        for name in sorted(found):
            try:
                status = os.stat(f"{self.root}/{name}")  # noqa: PTH116 - the same, without making a path of it
            except FileNotFoundError:
                continue  # deleted since it was listed
            yield entry_of(name, status)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and folders that become empty."""
        emptied = set()
        for name in names:
            path = self.root / checked_name(name)
            with explained(path, "delete"):
                path.unlink(missing_ok=True)
            emptied.add(path.parent)
        for folder in emptied:
            self._prune(folder)

    def sweep(self, prefix: str = "", *, before: float = math.inf) -> int:
        """Delete the hidden files of interrupted writes below `prefix`, and return how many there were."""
        with explained(self.root / prefix, "sweep"):
            hidden = [self.root / name for name in self._names(prefix) if is_reserved(name)]
            left = [path for path in hidden if _modified(path) < before]
            for path in left:
                path.unlink(missing_ok=True)
        for folder in {path.parent for path in left}:
            self._prune(folder)
        return len(left)

    def _names(self, prefix: str, *, deep: bool = True) -> Iterator[str]:
        """Yield, unsorted, the names below the root that begin with `prefix` or are hidden where they would."""
        top = self.root / prefix.rpartition("/")[0]
        for folder, folders, files in os.walk(top, onerror=_raise_unless_missing):
            if not deep:
                folders.clear()
            inside = Path(folder).relative_to(self.root).as_posix()
            within = "" if inside == "." else f"{inside}/"  # strings: a path object per file takes most of a listing
            for file in files:
                name = f"{within}{file}"
                if name.startswith(prefix) or (is_reserved(file) and f"{inside}/".startswith(prefix)):
                    yield name

    def _staged(self, path: Path, data: bytes | Path) -> Path:
        """Return a hidden, flushed file with this content, in the folder of `path` (made if needed)."""
        for last in (*(False,) * _FOLDER_ATTEMPTS, True):
            staged = partial_path(path)
            try:
                _make_folder(path.parent)
                stream = staged.open("xb")
            except FileNotFoundError:  # another process removed the empty folder meanwhile
                if last:
                    raise
            else:
                break
        try:
            with stream:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, stream, 1 << 20)
                else:
                    stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return staged

    def _has_hard_links(self) -> bool:
        staged = self._staged(self.root / "probe", b"")
        link = staged.with_suffix(".link")
        try:
            os.link(staged, link)
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                return False
            raise
        finally:
            staged.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
        return True

    def _prune(self, folder: Path) -> None:
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                folder.rmdir()
            except OSError:  # not empty, or already gone
                return
            folder = folder.parent


def entry_of(name: str, status: os.stat_result) -> Entry:
    """Return the entry of a file with this status."""
    return Entry(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", status.st_mtime)


def _modified(path: Path) -> float:
    """Return when a file was modified; never, if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _make_folder(path: Path) -> None:
    """Make a folder and its parents so that they survive a power cut."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        _flush(path.parent)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is needed", str(path))


def _flush(folder: Path) -> None:
    """Flush a folder's entries to disk; a folder that is gone has none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network mounts cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
