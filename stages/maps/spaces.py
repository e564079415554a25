"""Which of a generator's spaces a run uses (thesis Sec. 3.1: Φ)."""

from __future__ import annotations

from collections.abc import Sequence


def chosen_spaces(chosen: Sequence[str] | None, offered: Sequence[str]) -> tuple[str, ...]:
    """Return the spaces to invert in, most editable first: those chosen, or all that the generator offers.

    Args:
        chosen: some of those offered, in their order, the first among them; None takes all.
        offered: the generator's, most editable first.

    Raises:
        ValueError: a space is not offered, repeated or out of order, or the first is missing.
    """
    if chosen is None:
        return tuple(offered)
    if unknown := [space for space in chosen if space not in offered]:
        raise ValueError(
            f"the generator has no space {', '.join(unknown)}, only {', '.join(offered)}: remove the others"
        )
    ordered = tuple(space for space in offered if space in chosen)
    if tuple(chosen) != ordered:
        raise ValueError(
            f"got {', '.join(chosen)}: write each space once, the most editable first, {', '.join(ordered)}"
        )
    if offered[0] not in ordered:
        raise ValueError(
            f"got {', '.join(chosen) or 'none'}: {offered[0]} must be among the spaces, since the deltas of all "
            f"others change what it gives; add {offered[0]}"
        )
    return ordered


def column(space: str) -> str:
    """Return how a space is written in the names of parquet columns: `W+` is `w_plus`, `F4` is `f4`."""
    return space.lower().replace("+", "_plus")
