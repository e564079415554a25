"""Patterns of names: `*`, `?`, `[a-z]`, `**` and brace lists such as `train-{000..127}.tar`.

A special character alone in brackets is literal: `[[]`, `[]]`, `[{]`, `[}]`, `[*]`, `[?]`, `[,]`.
"""

import math
import re

from braceexpand import alphabet, braceexpand

from infra.errors import StoreError

TARS = "*.[tT][aA][rR]"
"""The pattern of a folder used as an input: the tar files in it."""

MAX_NAMES = 1_000_000
"""Maximum number of names that the brace lists of one pattern may expand to."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_ESCAPED = re.compile(r"\[([\[\]{}*?,])\]")
_LETTERS = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_COUNTED = re.compile("\0<([0-9]+)>")
_PROTECTED = {character: f"\0({ord(character)})" for character in "{},"}
"""Stand-in for escaped characters while brace lists are expanded; no address holds a NUL."""
_UNPROTECTED = re.compile(r"\x00\(([0-9]+)\)")
_TO_ESCAPE = re.compile(r"([\[\]{}*?])")
_WILDCARD = re.compile(r"[*?\[]")
_SPECIAL = re.compile(r"[*?\[{]")
_TOKEN = re.compile(r"\[[\[\]{}*?,]\]|.", re.DOTALL)
_SEGMENTS = r"(?:(?!\.)[^/]*/)*"  # any number of folders, none of them hidden


def escape(text: str) -> str:
    """Return the pattern that matches a text and nothing else."""
    return _TO_ESCAPE.sub(r"[\1]", text)


def unescape(pattern: str) -> str:
    """Return a pattern with every escaped character as itself."""
    return _ESCAPED.sub(r"\1", pattern)


def expand_braces(pattern: str) -> tuple[str, ...]:
    """Return every name that a pattern's brace lists expand to, in order, as in webdataset.

    `{a,b}` lists, `{000..127}` counts with leading zeros, `{0..9..3}` in steps, `{a..e}` through letters; lists
    may nest. Braces without a comma or a count are literal. Escaped characters stay escaped.

    Raises `StoreError` if braces do not match, or the lists expand to more than `MAX_NAMES` names.
    """
    protected = _ESCAPED.sub(lambda escaped: _PROTECTED.get(escaped[1], escaped[0]), pattern)
    if "{" not in protected:
        return (pattern,)
    count = _count(protected)
    if count is None:
        raise StoreError(
            f"unmatched brace in {pattern!r}; write lists as {{a,b}}, counts as {{000..127}}, a brace as [{{]"
        )
    if count > MAX_NAMES:
        raise StoreError(f"the brace lists of {pattern!r} expand to more than {MAX_NAMES:,} names; use wildcards")
    names = braceexpand(protected, escape=False)
    return tuple(_UNPROTECTED.sub(lambda code: f"[{chr(int(code[1]))}]", name) for name in names)


def split_parts(pattern: str) -> tuple[str, ...]:
    """Return the parts between the slashes of a pattern; a slash inside a brace list does not split."""
    parts, depth = [""], 0
    tokens = _TOKEN.findall(pattern)
    for position, piece in enumerate(tokens):
        if piece == "{" and (depth or _closing(tokens, position) is not None):
            depth += 1
        elif piece == "}" and depth:
            depth -= 1
        if piece == "/" and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return tuple(parts)


def is_pattern(part: str) -> bool:
    """Return whether a text holds a wildcard or a brace that is not escaped."""
    return _SPECIAL.search(_ESCAPED.sub("", part)) is not None


def may_be_literal(part: str) -> bool:
    """Return whether a text with special characters may be a literal name: it may not if it holds a `*`."""
    return "*" not in _ESCAPED.sub("", part)


def literal_part(pattern: str) -> str:
    """Return the part of a pattern before its first wildcard, unescaped: all matching names begin with it."""
    literal = ""
    for token in _TOKEN.findall(pattern):
        if _WILDCARD.match(token) and not _ESCAPED.fullmatch(token):
            break
        literal += unescape(token)
    return literal


def has_wildcard(pattern: str) -> bool:
    """Return whether a pattern can match more than the name it spells."""
    return _WILDCARD.search(_ESCAPED.sub("", pattern)) is not None


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the expression for whole names, as a shell reads the pattern.

    `*`, `?` and `[…]` stay inside one folder and match no name that begins with a dot; `**` as a whole part spans any
    number of folders, hidden ones excepted. Raises `StoreError` if the pattern is not valid.
    """
    pieces = []
    position = 0
    while position < len(pattern):
        piece, length = _translate(pattern, position)
        pieces.append(piece)
        position += length
    try:
        return re.compile("".join(pieces), re.DOTALL)
    except re.error as error:
        raise StoreError(f"{pattern!r} is not a valid pattern: {error.msg}; write a bracket itself as [[]") from error


def _translate(pattern: str, position: int) -> tuple[str, int]:
    """Return the expression for the pattern at this position, and the number of characters that it used."""
    rest, begins = pattern[position:], position == 0 or pattern[position - 1] == "/"
    visible = r"(?!\.)" if begins else ""
    if begins and rest.startswith("**/"):
        return _SEGMENTS, 3
    if begins and rest == "**":
        return rf"{_SEGMENTS}{visible}[^/]*", 2
    if rest[0] in "*?":
        return visible + {"*": "[^/]*", "?": "[^/]"}[rest[0]], 1
    negated = rest[0] == "[" and rest[1:2] in ("!", "^")
    closing = rest.find("]", 3 if negated else 2)
    if rest[0] == "[" and closing > 0 and not _ESCAPED.match(rest):
        inside = re.sub(r"([\\\[\]&|~])", r"\\\1", rest[2 if negated else 1 : closing])
        return f"{visible}[^/{inside}]" if negated else f"{visible}[{inside}]", closing + 1
    literal = _ESCAPED.match(rest)
    return (re.escape(literal[1]), 3) if literal else (re.escape(rest[0]), 1)


def _closing(tokens: list[str], opening: int) -> int | None:
    depth = 0
    for position in range(opening, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[position], 0)
        if depth == 0:
            return position
    return None


def _count(pattern: str) -> int | None:
    """Return how many names brace lists expand to, without making them; None if braces do not match.

    The innermost lists are counted first, and replaced by their number in the outer ones.
    """
    counts: list[int] = []

    def names(text: str) -> int:
        return math.prod(counts[int(number)] for number in _COUNTED.findall(text))

    def counted(group: re.Match[str]) -> str:
        if counter := _RANGE.fullmatch(group[1]):
            step = abs(int(counter[3] or 1)) or 1
            counts.append(abs(int(counter[2]) - int(counter[1])) // step + 1)
        elif _LETTERS.fullmatch(group[1]):
            counts.append(len(alphabet))  # at most
        else:
            counts.append(sum(map(names, group[1].split(","))))
        return f"\0<{len(counts) - 1}>"

    while (shorter := _INNERMOST.sub(counted, pattern)) != pattern:
        pattern = shorter
    return None if {"{", "}"} & set(pattern) else names(pattern)
