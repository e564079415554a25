"""The end of `run`, `plan` and `report`: failed units by reason, gaps of the result, unread input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pipeline.jobs.reasons import by_kind

if TYPE_CHECKING:
    from pipeline.execution.run import RunResult
    from pipeline.operations.status import Status

NAMED = 10
"""Number of units named per kind of reason."""
KINDS = 20
"""Number of kinds of reasons printed."""


def print_failed(console: Console, failed: Mapping[str, str]) -> None:
    """Print each kind of reason why units failed, with their number and names; of each kind the first reason."""
    kinds = by_kind(failed)
    for units in kinds[:KINDS]:
        more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
        named = f"{', '.join(units[:NAMED])}{more}"
        count = "1 unit" if len(units) == 1 else f"{len(units)} units"
        alike = len({failed[unit] for unit in units}) == 1
        reason = failed[units[0]] if alike else f"for reasons like the first one's: {failed[units[0]]}"
        console.print(Text.assemble(("failed ", "red"), f"{count}: {reason} ({named})"), soft_wrap=True)
    if others := sum(map(len, kinds[KINDS:])):
        console.print(Text.assemble(("failed ", "red"), f"{others} others, for {len(kinds) - KINDS} other reasons"))


def print_basis(console: Console, status: Status) -> None:
    """Print what a plan's figures are based on, and its warnings."""
    console.print(
        f"{status.shards} shards, {status.new_shards} of them new or changed; hours of one worker and bytes are "
        "estimated from units that are committed; before the first, hours are unknown and bytes are guessed from the "
        "shapes of maps and codes",
        soft_wrap=True,
    )
    if status.basis:
        console.print(status.basis, soft_wrap=True)
    for warning in status.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def print_gaps(console: Console, finished: RunResult) -> None:
    """Print what a result lacks, if anything."""
    if not finished.gaps:
        return
    units: Mapping[str, int] = finished.gaps.get("units", {})
    parts = [f"{count} units of {stage}" for stage, count in units.items()]
    parts += [f"{finished.gaps[what]} {what}" for what in ("shards", "samples") if what in finished.gaps]
    console.print(Text.assemble(("gaps: ", "yellow"), f"{', '.join(parts)} are missing"), soft_wrap=True)


def print_unread(console: Console, finished: RunResult) -> bool:
    """Print which input could not be read; return whether all of it could."""
    unread = finished.unread
    for line in unread.lines():
        console.print(Text(line), soft_wrap=True)
    return not unread.faults


def print_end(console: Console, finished: RunResult) -> bool:
    """Print what went wrong in a run; return whether nothing did."""
    print_failed(console, finished.failed)
    print_gaps(console, finished)
    if not finished.moved:
        samples = sum(shard.samples for shard in finished.shards)
        console.print(f"nothing was published, because none of {samples} samples is recorded; what was published stays")
    if finished.failed:
        console.print("run again to retry the failed units")
    elif finished.gaps:
        console.print("run again to complete it")
    whole = print_unread(console, finished)
    return finished.moved and not finished.failed and not finished.gaps and whole
