"""The shards of an address in a bucket: by one HEAD, or by listing as little as the patterns allow."""

import itertools
from collections.abc import Iterable, Sequence

from infra.addresses.found import CHECK, Found, some
from infra.addresses.patterns import (
    TARS,
    escape,
    expand_braces,
    has_wildcard,
    is_pattern,
    literal_part,
    may_be_literal,
    pattern_regex,
    unescape,
)
from infra.errors import NotFoundError, StoreError
from infra.stores.store import BucketStore, Entry

_LOOKED_AT = 100
"""Number of objects that a hint is based on."""


def search_bucket(whole: BucketStore, parts: Sequence[str]) -> Found:
    """Return the shards of a key whose parts are names or patterns; a folder means its tar files.

    Raises:
        NotFoundError: there are none, or one that is named without a wildcard is missing.
        StoreError: the bucket cannot be read.
    """
    prefix, rest = _literal_prefix(whole, parts)
    if rest and not is_pattern(rest[0]):
        return _named(whole, prefix, unescape(rest[0]))
    if len(rest) == 1 and may_be_literal(rest[0]) and _exists(whole, prefix + unescape(rest[0])):
        return _named(whole, prefix, unescape(rest[0]))
    store = whole.within_bucket(prefix)
    entries = _matching(store, expand_braces("/".join(rest)))
    if not entries:
        raise NotFoundError(f"no shards in {store.url}{_instead(store)}")
    return Found(store, tuple(entries[name] for name in sorted(entries)))


def _literal_prefix(whole: BucketStore, parts: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the folder named by the parts before the first pattern, and the other parts, at least one."""
    prefix = ""
    for position, part in enumerate(parts[:-1]):
        folder = f"{prefix}{unescape(part)}/"
        if is_pattern(part) and not (may_be_literal(part) and _holds(whole, folder)):
            return prefix, parts[position:]
        prefix = folder
    return prefix, parts[-1:]


def _named(whole: BucketStore, prefix: str, name: str) -> Found:
    """Return the object of a key, or the tar files of its folder, for which an empty object may stand."""
    key = prefix + name
    entry = _entry(whole, key)
    if entry is not None and (entry.size or not _holds(whole, f"{key}/")):
        return Found(whole.within_bucket(prefix), (Entry(name, entry.size, entry.version),))
    if _holds(whole, f"{key}/"):
        store = whole.within_bucket(f"{key}/")
        entries = _matching(store, (TARS,))
        if not entries:
            raise NotFoundError(f"no shards in {store.url}{_instead(store)}")
        return Found(store, tuple(entries.values()))
    near = sorted({_head(entry.name, len(key)) for entry in itertools.islice(whole.list(key), _LOOKED_AT)})
    hint = ""
    if near:
        hint = f"; it is the beginning of {some(near, 'names')}: write {whole.url}/{near[0]} or {whole.url}/{key}*"
    raise NotFoundError(f"there is no object or folder {whole.url}/{key}; correct the address{hint}")


def _head(name: str, length: int) -> str:
    """Return a name up to the first slash after `length` characters."""
    slash = name.find("/", length)
    return name if slash < 0 else name[: slash + 1]


def _entry(store: BucketStore, key: str) -> Entry | None:
    """Return an object's entry, None if there is none; a server may answer 403 for a missing object."""
    try:
        return store.entry(key)
    except StoreError:
        return None


def _holds(store: BucketStore, prefix: str) -> bool:
    return next(store.list(prefix), None) is not None


def _exists(store: BucketStore, key: str) -> bool:
    return _entry(store, key) is not None or _holds(store, f"{key}/")


def _instead(store: BucketStore) -> str:
    folders = store.folders("")
    return (
        f"; it has {some(folders, 'folders')}: name one of them, or write **/*.tar for all" if folders else f"; {CHECK}"
    )


def _matching(store: BucketStore, patterns: Iterable[str]) -> dict[str, Entry]:
    """Return the objects that match any of the patterns, by name; for a folder, its tar files."""
    groups: dict[str, list[str]] = {}
    for pattern in patterns:
        groups.setdefault(literal_part(pattern).rpartition("/")[0], []).append(pattern)
    found: dict[str, Entry] = {}
    missing: list[str] = []
    for folder, group in groups.items():
        inside, absent = _matching_in(store, group)
        found |= inside
        missing += absent or ([f"{folder}/"] if folder and not inside else [])
    if missing:
        raise NotFoundError(
            f"missing in {store.url}: {some(missing, 'named shards')}; correct the address, or upload them"
        )
    return found


def _matching_in(store: BucketStore, patterns: Sequence[str]) -> tuple[dict[str, Entry], list[str]]:
    """Return what matches patterns that share a folder, with one listing, and the missing names."""
    names = {unescape(pattern) for pattern in patterns if not has_wildcard(pattern)}
    wild = [pattern for pattern in patterns if has_wildcard(pattern)]
    expressions = [pattern_regex(pattern) for pattern in wild]
    prefix = _common_prefix(patterns)
    deep = any("**" in pattern or pattern.count("/") > prefix.count("/") for pattern in wild)
    entries = {entry.name: entry for entry in store.list(prefix, deep=deep)}
    found = {
        name: entry
        for name, entry in entries.items()
        if name in names or any(expression.fullmatch(name) for expression in expressions)
    }
    missing = []
    for name in sorted(names - entries.keys()):
        inside, _ = _matching_in(store, (f"{escape(name)}/{TARS}",))
        found |= inside
        missing += [] if inside else [name]
    return found, missing


def _common_prefix(patterns: Sequence[str]) -> str:
    """Return the common prefix of all names that match any of the patterns."""
    literals = [literal_part(pattern) for pattern in patterns]
    lowest, highest = min(literals), max(literals)
    length = next((i for i, (a, b) in enumerate(zip(lowest, highest, strict=False)) if a != b), len(lowest))
    return lowest[:length]
