"""The data-set card: README.md next to the pointer, with provenance, figures, histograms and pictures.

It names no moment and no machine, so that it is written again only when something that it says has changed.
"""

from __future__ import annotations

import functools
import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from infra.errors import NotFoundError
from infra.stores.store import Store
from pipeline.report.figures import count
from pipeline.report.summary import Picture, Summary

NAME, PICTURES = "README.md", "card/pictures.png"
MARK = "data-set card written by invertmill"
"""A README.md without it is somebody else's, and stays."""
_TEMPLATE = Path(__file__).parent / "template"
_SHOWN, _SIDE_PX, _GAP_PX = 8, 128, 4
_BINS, _WIDTH = 12, 40
_SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 1_000_000))
_FILES = """\
`published.json` names the index: parquet files with one row per image. `arrays` of a row is the tar with the image's
deltas and masks, `records` the parquet with its `w_plus`. All of them open with stock pyarrow, DuckDB, webdataset and
numpy."""


@dataclass(frozen=True)
class Histogram:
    """The distribution of a figure over all images, as text."""

    title: str
    text: str


@dataclass(frozen=True)
class Card:
    """What a card says.

    `pictures`: some of them are shown. `provenance`: what the codes were made with, by name. `distributions`: figures
    of every recorded image, by name with unit. `data_files`: the parquet files of the data set, relative to the card.
    `files`: how to read the data set.
    """

    title: str
    summary: Summary
    pictures: Sequence[Picture]
    provenance: Mapping[str, str]
    distributions: Mapping[str, NDArray[np.float64]]
    data_files: Sequence[str]
    files: str = _FILES

    @functools.cached_property
    def sheet(self) -> bytes | None:
        """A PNG of images above their reconstructions; None without pictures."""
        return _sheet(self.pictures[:_SHOWN]) if self.pictures else None

    @functools.cached_property
    def text(self) -> str:
        """The card as Markdown."""
        environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML
            loader=jinja2.FileSystemLoader(_TEMPLATE), undefined=jinja2.StrictUndefined, trim_blocks=True
        )
        environment.filters |= {"count": count, "cell": _cell}
        headlines = self.summary.headlines()
        return environment.get_template("card.md.j2").render(
            metadata=yaml.safe_dump(_metadata(self), sort_keys=False),
            mark=MARK,
            title=self.title,
            counts=self.summary.samples,
            gaps=", ".join(f"{name}: {value}" for name, value in self.summary.gaps.items()),
            pictures=PICTURES if self.sheet else None,
            provenance={"invertmill": version("invertmill"), **self.provenance},
            figures=[(name, value) for name, value in headlines if name not in ("seconds", "samples")],
            histograms=list(_histograms(self.distributions)),
            files=self.files,
        )

    def write(self, store: Store) -> bool:
        """Write what has changed into a store and return whether anything was. A README.md of others stays."""
        present = _content(store, NAME)
        if present is not None and MARK.encode() not in present:
            return False
        changed = False
        for name, data in ((PICTURES, self.sheet), (NAME, self.text.encode())):
            if data is not None and _content(store, name) != data:
                store.write(name, data)
                changed = True
        return changed


def _metadata(card: Card) -> dict[str, Any]:
    """Return the metadata that Hugging Face reads from the beginning of a card."""
    size = next((name for name, most in _SIZES if card.summary.samples.recorded < most), "n>1M")
    return {
        "pretty_name": card.title,
        "tags": ["gan-inversion", "latent-codes", "webdataset", "invertmill"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": list(card.data_files)}]}],
    }


def _histograms(distributions: Mapping[str, NDArray[np.float64]]) -> Iterator[Histogram]:
    for title, values in distributions.items():
        finite = values[np.isfinite(values)]
        if finite.size > 1:
            yield Histogram(title, histogram(finite))


def histogram(values: NDArray[np.float64]) -> str:
    """Return the distribution of finite values as lines of text: bin, bar and number."""
    counts, edges = np.histogram(values, bins=min(_BINS, max(1, int(np.sqrt(values.size)))))
    most, digits = int(counts.max()), len(f"{counts.max():,}")
    shown = [f"{low:9.3f} to {high:9.3f}" for low, high in itertools.pairwise(edges)]
    bars = ["█" * round(_WIDTH * int(number) / most) for number in counts]
    lines = [
        f"{where}  {int(number):>{digits},}  {bar}".rstrip()
        for where, bar, number in zip(shown, bars, counts, strict=True)
    ]
    return "\n".join([*lines, f"median {np.median(values):.4g}, mean {np.mean(values):.4g}"])


def _sheet(pictures: Sequence[Picture]) -> bytes:
    columns = [[_small(picture.image_HW3), _small(picture.sam_HW3)] for picture in pictures]
    width = max(image.width for column in columns for image in column) + _GAP_PX
    height = max(image.height for column in columns for image in column) + _GAP_PX
    sheet = Image.new("RGB", (width * len(columns) - _GAP_PX, 2 * height - _GAP_PX), "white")
    for number, column in enumerate(columns):
        for line, image in enumerate(column):
            sheet.paste(image, (number * width, line * height))
    sink = io.BytesIO()
    sheet.save(sink, "png", optimize=True)
    return sink.getvalue()


def _small(image_HW3: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(image_HW3)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    return image


def _cell(value: object) -> str:
    """Return text for a cell of a Markdown table."""
    return textwrap.shorten(str(value), 300).replace("|", "\\|")


def _content(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except NotFoundError:
        return None
