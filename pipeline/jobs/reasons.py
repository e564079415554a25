"""Reasons of failures, told apart by kind: two that differ in names and numbers only are of one kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")


def by_kind(reasons: Mapping[str, str]) -> list[list[str]]:
    """Return the names that reasons are given for, those of one kind together; the most frequent kind first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        kinds[_NUMBERS.sub("0", reason.replace(name, "NAME"))].append(name)
    return sorted(kinds.values(), key=len, reverse=True)
