"""Patterns of names: `*`, `?`, `[a-z]`, `**` and brace lists such as `train-{000..127}.tar`."""

import itertools
import re

from infra.errors import StoreError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_WILDCARD = re.compile(r"[*?\[]")


def expand_braces(pattern: str) -> tuple[str, ...]:
    """Return every name a pattern's brace lists stand for, in their order.

    `{a,b}` lists, `{000..127}` counts with the zeros it shows, `{0..9..3}` in steps; lists may nest.
    Raises `StoreError` if a brace is not closed.
    """
    opening = pattern.find("{")
    if opening < 0:
        return (pattern,)
    closing = _closing(pattern, opening)
    middles = _alternatives(pattern[opening + 1 : closing])
    tails = expand_braces(pattern[closing + 1 :])
    return tuple(pattern[:opening] + middle + tail for middle, tail in itertools.product(middles, tails))


def literal_part(pattern: str) -> str:
    """Return the part of a pattern before its first wildcard: all matching names begin with it."""
    found = _WILDCARD.search(pattern)
    return pattern[: found.start()] if found else pattern


def has_wildcard(pattern: str) -> bool:
    """Return whether a pattern can match more than the name it spells."""
    return _WILDCARD.search(pattern) is not None


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the expression for whole names: `*` and `?` stay inside one folder, `**/` spans any number of folders."""
    pieces = []
    position = 0
    while position < len(pattern):
        piece, length = _translate(pattern, position)
        pieces.append(piece)
        position += length
    return re.compile("".join(pieces), re.DOTALL)


def _translate(pattern: str, position: int) -> tuple[str, int]:
    """Return the expression for what stands at this position, and how many characters of the pattern it used."""
    rest = pattern[position:]
    for token, expression in (("**/", "(?:.*/)?"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")):
        if rest.startswith(token):
            return expression, len(token)
    closing = rest.find("]", 2)
    if rest[0] == "[" and closing > 0:
        inside = rest[1:closing].replace("\\", "\\\\").replace("[", "\\[")
        negated = inside[0] in "!^"
        return (f"[^/{inside[1:]}]" if negated else f"[{inside}]"), closing + 1
    return re.escape(rest[0]), 1


def _closing(pattern: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    raise StoreError(f"a brace is not closed in {pattern!r}; write lists as {{a,b}} and counts as {{000..127}}")


def _alternatives(inside: str) -> tuple[str, ...]:
    counted = _RANGE.fullmatch(inside)
    if counted:
        return _count(counted[1], counted[2], int(counted[3] or 1))
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(name for part in parts for name in expand_braces(part))


def _count(first: str, last: str, step: int) -> tuple[str, ...]:
    start, stop = int(first), int(last)
    step = abs(step) or 1
    padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(start, stop + 1, step) if start <= stop else range(start, stop - 1, -step)
    return tuple(f"{number:0{width}d}" for number in numbers)
