"""How webdataset reads the names of a tar's members: which belong to samples, with which key and extension."""

import re

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # webdataset's rule: the key ends at the first dot
_ASIDE = {
    "macOS metadata files": re.compile(r"(.*/)?(__MACOSX/|\._)", re.DOTALL),
    "metadata files (__NAME__)": re.compile(r"__[^/]*__($|/)"),
    "hidden files": re.compile(r"(.*/)?\.[^/]*$", re.DOTALL),
}


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and lower-case extension of a member's name as webdataset does, None if it has none."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def aside(name: str) -> str | None:
    """Return the plural of the kind of file that, by its name, belongs to no sample; None if it may belong to one."""
    return next((what for what, pattern in _ASIDE.items() if pattern.match(name)), None)


def printable(name: str) -> str:
    """Return a name with bytes escaped as `\\xNN` that are not UTF-8 or that no file name can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")
