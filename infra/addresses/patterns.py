"""Patterns of names: `*`, `?`, `[a-z]`, `**` and brace lists such as `train-{000..127}.tar`.

A special character alone in brackets stands for itself: `[[]`, `[]]`, `[{]`, `[}]`, `[*]`, `[?]`, `[,]`.
"""

import itertools
import re

from infra.errors import StoreError

TARS = "*.[tT][aA][rR]"
"""What a folder stands for as an input: the tar files in it."""

MAX_NAMES = 1_000_000
"""The most names that the brace lists of one pattern may stand for."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_ESCAPED = re.compile(r"\[([\[\]{}*?,])\]")
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
    """Return every name a pattern's brace lists stand for, in their order.

    `{a,b}` lists, `{000..127}` counts with the zeros it shows, `{0..9..3}` in steps; lists may nest. Escaped
    characters stay escaped. Raises `StoreError` if a brace is not closed, or the lists stand for too many names.
    """
    tokens = _TOKEN.findall(pattern)
    if "{" not in tokens:
        return (pattern,)
    opening = tokens.index("{")
    closing = _closing(tokens, opening)
    if closing is None:
        raise StoreError(
            f"unclosed brace in {pattern!r}; write lists as {{a,b}}, counts as {{000..127}}, a brace as [{{]"
        )
    middles = _alternatives(tokens[opening + 1 : closing])
    tails = expand_braces("".join(tokens[closing + 1 :]))
    if len(middles) * len(tails) > MAX_NAMES:
        raise StoreError(f"the brace lists of {pattern!r} stand for more than {MAX_NAMES:,} names; use wildcards")
    before = "".join(tokens[:opening])
    return tuple(before + middle + tail for middle, tail in itertools.product(middles, tails))


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
    """Return whether a text with special characters may name one thing as it is spelt: not where it holds a `*`."""
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
    """Return the expression for what stands at this position, and how many characters of the pattern it used."""
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


def _alternatives(inside: list[str]) -> tuple[str, ...]:
    counted = _RANGE.fullmatch("".join(inside))
    if counted:
        return _count(counted[1], counted[2], int(counted[3] or 1))
    parts, depth = [""], 0
    for piece in inside:
        depth += {"{": 1, "}": -1}.get(piece, 0)
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return tuple(name for part in parts for name in expand_braces(part))


def _count(first: str, last: str, step: int) -> tuple[str, ...]:
    start, stop = int(first), int(last)
    step = abs(step) or 1
    padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(start, stop + 1, step) if start <= stop else range(start, stop - 1, -step)
    if len(numbers) > MAX_NAMES:
        raise StoreError(f"{{{first}..{last}}} counts more than {MAX_NAMES:,} names; use wildcards")
    return tuple(f"{number:0{width}d}" for number in numbers)
