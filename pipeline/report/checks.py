"""Rules for a run's figures, with a verdict, so that readers of a summary need not compare numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A rule, whether it holds, and its figures; `holds` is None if some of them are unknown."""

    rule: str
    holds: bool | None
    values: Mapping[str, float | None]

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return {True: "holds", False: "does not hold", None: "not known"}[self.holds]


# Thesis Fig. 3.2: W+ < F4 < F6 < F8 < F10
def psnr_order(psnr_db: Mapping[str, float | None]) -> Check:
    """Check that the PSNR of inversions in one space alone rises from each space to the next.

    Args:
        psnr_db: mean PSNR by space, most editable first.
    """
    values = list(psnr_db.values())
    known = [value for value in values if value is not None]
    holds = None
    if len(known) == len(values) > 1:
        holds = all(less < more for less, more in itertools.pairwise(known))
    return Check("PSNR rises from each space to the next, less editable one (thesis Fig. 3.2)", holds, dict(psnr_db))
