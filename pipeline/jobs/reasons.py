"""Reasons of failures by kind: two that differ only in names and numbers are of one kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")


def by_kind(reasons: Mapping[str, str]) -> list[list[str]]:
    """Return the names with their reasons, grouped by kind; the most frequent kind first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        kinds[_NUMBERS.sub("0", reason.replace(name, "NAME"))].append(name)
    return sorted(kinds.values(), key=len, reverse=True)
