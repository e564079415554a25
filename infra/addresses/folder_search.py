"""The shards of a path on this machine, searched part by part, so that only reachable folders are listed."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.addresses.found import CHECK, Found, some
from infra.addresses.patterns import (
    TARS,
    expand_braces,
    is_pattern,
    may_be_literal,
    pattern_regex,
    split_parts,
    unescape,
)
from infra.errors import NotFoundError, StoreError
from infra.stores.folder import FolderStore, entry_of
from infra.stores.os_errors import explained
from infra.stores.store import Entry

_ABSENT = (FileNotFoundError, NotADirectoryError)


def search_folders(parts: Sequence[str]) -> Found:
    """Return the shards of a path whose parts are names or patterns; a folder means its tar files.

    As in a shell, links are followed and `*` skips hidden names; `**` enters what links lead to, no deeper.

    Raises:
        NotFoundError: there are none, or one that is named without a wildcard is missing.
        StoreError: a folder cannot be read, or a named path is neither a file nor a folder.
    """
    top, rest = _literal_top(parts)
    if not rest and not os.path.isdir(top):  # noqa: PTH112  # pathlib's may raise
        return Found(FolderStore(top.parent), (_named(top),))
    if ".." in rest:
        raise StoreError("'..' after a pattern leaves the folder that it matches; write the path without it")
    search = _Search(top)
    search.go("", (*rest,) or (TARS,), certain=True)
    return search.found()


def _literal_top(parts: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Return the folder or file named by the parts before the first pattern, and the other parts."""
    top = Path("/") if parts[0] == "" else Path.cwd()
    for position, part in enumerate(parts):
        literal = unescape(part)
        if is_pattern(part) and not (may_be_literal(part) and os.path.lexists(top / literal)):
            return top, tuple(parts[position:])
        top = top / literal
    return top, ()


def _named(path: Path) -> Entry:
    """Return the entry of a file that is requested by name."""
    with explained(path, "look at"):
        try:
            status = path.stat()
        except OSError as error:
            if _leads_nowhere(path, error):
                raise NotFoundError(f"{path} is a link to {path.readlink()}, which does not exist") from error
            if isinstance(error, FileNotFoundError):
                raise NotFoundError(f"there is no file or folder {path}; correct the address") from error
            raise
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} is neither a file nor a folder; name a tar file or a folder of tar files")
    return entry_of(path.name, status)


@dataclass
class _Search:
    """One search below a folder."""

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # named without a wildcard
    dangling: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # folders that matched where files are expected

    def go(self, name: str, parts: tuple[str, ...], *, certain: bool) -> None:
        """Search a folder for the parts. `certain`: the folder is named without a wildcard."""
        part, rest = parts[0], parts[1:]
        literal = unescape(part)
        if not is_pattern(part) or (may_be_literal(part) and os.path.lexists(self.root / name / literal)):
            self._enter(_join(name, literal), rest, certain=certain, named=True)
        elif len(alternatives := expand_braces(part)) > 1 or alternatives[0] != part:
            for alternative in alternatives:
                self.go(name, (*split_parts(alternative), *rest), certain=certain)
        elif part == "**":
            for folder in self._below(name, certain=certain):
                self.go(folder, rest or ("*",), certain=False)
        else:
            wanted = pattern_regex(part).fullmatch
            for item in self._scan(name, lambda item: bool(wanted(item.name)), certain=certain):
                if not rest or _is_folder(item):
                    self._enter(_join(name, item.name), rest, certain=False, named=False)

    def found(self) -> Found:
        """Return the result."""
        if self.missing:
            raise NotFoundError(
                f"missing in {self.root}: {some(self.missing, 'named shards')}; correct the address, or put it there"
            )
        passed_over = [
            f"{self.root}: {some(names, what)}; passed over"
            for names, what in ((self.dangling, "links lead nowhere"), (self.unreadable, "folders are unreadable"))
            if names
        ]
        if not self.entries:
            raise NotFoundError("; ".join([f"no shards in {self.root}", *passed_over, *(self._instead() or [CHECK])]))
        return Found(
            FolderStore(self.root), tuple(self.entries[name] for name in sorted(self.entries)), tuple(passed_over)
        )

    def _instead(self) -> list[str]:
        """Return what an address that finds nothing may have meant."""
        if self.folders:
            return [f"the pattern matches {some(self.folders, 'folders')}: end it with / for the tar files in them"]
        inside = [item.name for item in self._scan("", _is_folder, certain=False)]
        return [f"it has {some(inside, 'folders')}: name one of them, or write **/*.tar for all"] if inside else []

    def _enter(self, name: str, rest: tuple[str, ...], *, certain: bool, named: bool) -> None:
        if rest:
            self.go(name, rest, certain=certain)
        else:
            self._take(name, certain=certain, named=named)

    def _take(self, name: str, *, certain: bool, named: bool) -> None:
        """Add a file, or the tar files of a folder that is named."""
        path = self.root / name
        try:
            status = path.stat()
        except OSError as error:
            if _leads_nowhere(path, error):
                self.dangling.append(name)
                return
            if isinstance(error, _ABSENT):
                self.missing += [name] * certain
                return
            if isinstance(error, PermissionError) and not certain:
                self.unreadable.append(name)
                return
            with explained(path, "look at"):
                raise
        if stat.S_ISDIR(status.st_mode) and named:
            self.go(name, (TARS,), certain=certain)
        elif stat.S_ISDIR(status.st_mode):
            self.folders.append(name)
        elif stat.S_ISREG(status.st_mode):
            self.entries[_checked(name)] = entry_of(name, status)
        else:
            self.missing += [name] * certain

    def _below(self, name: str, *, certain: bool) -> Iterator[str]:
        """Yield a folder and all below it except hidden ones, then what links lead to, unless already seen."""
        links, known, todo = [], set(), [(name, certain)]
        while todo:
            folder, sure = todo.pop()
            known.add(_identity(self.root / folder))
            yield folder
            inside = self._scan(folder, lambda item: not item.name.startswith(".") and _is_folder(item), certain=sure)
            links += [_join(folder, item.name) for item in inside if item.is_symlink()]
            todo += [(_join(folder, item.name), False) for item in reversed(inside) if not item.is_symlink()]
        for link in links:
            if (identity := _identity(self.root / link)) not in known:
                known.add(identity)
                yield link

    def _scan(self, name: str, wanted: Callable[[os.DirEntry[str]], bool], *, certain: bool) -> list[os.DirEntry[str]]:
        """Return the sorted entries of a folder that are wanted."""
        path = self.root / name
        with explained(path, "list"):
            try:
                with os.scandir(path) as items:
                    return sorted((item for item in items if wanted(item)), key=lambda item: item.name)
            except _ABSENT as error:
                if certain and not name:
                    raise NotFoundError(f"there is no folder {path}; correct the address") from error
                self.missing += [name] * certain
            except PermissionError:
                if certain:
                    raise
                self.unreadable.append(name)
        return []


def _checked(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"the name of the shard {os.fsencode(name)!r} is not valid UTF-8; rename it") from error
    return name


def _leads_nowhere(path: Path, error: OSError) -> bool:
    """Return whether a file is a link to nothing, or to itself."""
    return os.path.islink(path) and (error.errno == errno.ELOOP or isinstance(error, FileNotFoundError))  # noqa: PTH114


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a loop of links
        return False


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name not in ("", ".") else folder or (name if name != "." else "")
