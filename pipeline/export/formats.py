"""The formats of exports by name. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.export import dataset, npy, pt, pti
from pipeline.export.format import Format

FORMATS: Mapping[str, Format] = {"dataset": dataset.FORMAT, "npy": npy.FORMAT, "pt": pt.FORMAT, "pti": pti.FORMAT}
