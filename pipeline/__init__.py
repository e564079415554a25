"""What is run: configuration, plan, execution on Ray, command line, report, the reader of results, and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.bundles.reader import open_bundles

__all__ = ["open_bundles"]


def __getattr__(name: str) -> object:
    if name == "open_bundles":  # imported at its first use: commands that read no bundles start faster
        from pipeline.bundles.reader import open_bundles

        return open_bundles
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
