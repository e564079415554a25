"""The interactive page of edits: a static file with a slider over magnitudes; and the rows of edits in the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from infra.files import staged
from pipeline.report.charts import Drawing, draw_assignment, draw_compact, draw_error, draw_image, error_ceiling
from pipeline.report.edit_truth import UNEDITED
from pipeline.report.edited import SAM_METHOD, EditedImage, EditedPicture
from pipeline.report.summary import SAM
from pipeline.report.templates import page_environment, verbatim
from stages.maps.spaces import column

EDITS_PAGE = "edits.html"
REPORTED = 4
"""Number of images whose edits the report shows; the page has more."""
COLUMNS = 7
"""Number of magnitudes that the report shows of a direction; the page has all."""


@dataclass(frozen=True)
class Shown:
    """An image with what it shows, in words."""

    drawing: Drawing
    alt: str
    name: str = ""


@dataclass(frozen=True)
class Series:
    """The edits of one image along a direction: `rows` holds an image for each magnitude, by the name of the method."""

    direction: str
    magnitudes: tuple[str, ...]
    rows: Mapping[str, tuple[Shown, ...]]


@dataclass(frozen=True)
class EditedRow:
    """One image in the report: input, map and assignment, then its edits."""

    key: str
    shard: str
    before: tuple[Shown, ...]
    series: tuple[Series, ...]


def rows_of_edits(pictures: Sequence[EditedPicture], spaces: Sequence[str], ceiling: float) -> list[EditedRow]:
    """Return the rows of edits in the report, of the first pictures.

    Args:
        pictures: samples with their edits.
        spaces: of the run, most editable first.
        ceiling: end of the colour scale of maps.
    """
    names = method_names(spaces)
    return [_row(picture, spaces, ceiling, names) for picture in pictures[:REPORTED]]


def write_edits_page(path: Path, *, title: str, spaces: Sequence[str], pictures: Sequence[EditedPicture]) -> None:
    """Write the interactive page as one HTML file that needs no other file and no server.

    Args:
        path: of the page.
        title: of the run.
        spaces: of the run, most editable first.
        pictures: samples with their edits, at least one.
    """
    environment = page_environment()
    ceiling = error_ceiling(picture.predicted_HW for picture in pictures)
    page = environment.get_template("edits_page.html.j2").render(
        title=title,
        sam=SAM,
        spaces=spaces,
        style=verbatim(environment, "report.css") + verbatim(environment, "edits_page.css"),
        script=verbatim(environment, "edits_page.js"),
        pictures=[(picture.key, draw_compact(picture.image_HW3)) for picture in pictures],
        directions=list(dict.fromkeys(name for picture in pictures for name in picture.directions)),
        names=method_names(spaces),
        data=as_data([page_data(picture, spaces, ceiling) for picture in pictures]),
    )
    with staged(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")  # a key may hold surrogates


def method_names(spaces: Sequence[str]) -> dict[str, str]:
    """Return the methods that pages compare, each with its name for people."""
    return {SAM_METHOD: "SAM", column(spaces[0]): f"{spaces[0]} alone"}


def names_of_all(spaces: Sequence[str]) -> dict[str, str]:
    """Return every method that edits are measured for, each with its name for people."""
    return {SAM_METHOD: "SAM", **{column(space): f"{space} alone" for space in spaces}, UNEDITED: "unedited input"}


def page_data(picture: EditedPicture, spaces: Sequence[str], ceiling: float) -> dict[str, Any]:
    """Return what the page's script needs of one picture: addresses of images by direction, magnitude and method."""
    series = {
        name: [
            {
                "magnitude": edit.magnitude,
                **{method: draw_compact(image).uri for method, image in edit.by_method.items()},
            }
            for edit in picture.along(name)
        ]
        for name in picture.directions
    }
    assignment = draw_assignment(picture.assignment_HW, picture.image_HW3, spaces)
    return {
        "key": picture.key,
        "shard": picture.shard,
        "input": draw_image(picture.image_HW3).uri,
        "map": draw_error(picture.predicted_HW, ceiling).uri,
        "assignment": assignment.uri,
        "small": max(assignment.width_px, assignment.height_px) <= 128,
        "series": series,
    }


def as_data(value: object) -> Markup:
    """Return a value as JSON for a data block of a page; nothing in it can end the block."""
    escapes = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
    return Markup(json.dumps(value).translate(escapes))  # noqa: S704  # what could leave the block is escaped


def _row(picture: EditedPicture, spaces: Sequence[str], ceiling: float, names: Mapping[str, str]) -> EditedRow:
    key = picture.key
    error = draw_error(picture.predicted_HW, ceiling)
    assignment = draw_assignment(picture.assignment_HW, picture.image_HW3, spaces)
    before = [
        Shown(draw_compact(picture.image_HW3), f"Input of {key}, to be edited", "input"),
        Shown(error, f"Invertibility map of {key} in {spaces[0]}, to be edited", f"predicted, {spaces[0]}"),
        Shown(assignment, f"Assignment of {key}, to be edited", "assignment"),
    ]
    for method, image_HW3 in picture.unedited.items():
        name = names.get(method, method)
        before.append(Shown(draw_compact(image_HW3), f"Reconstruction of {key} by {name}, to be edited", name))
    return EditedRow(key, picture.shard, tuple(before), tuple(_series(picture, d, names) for d in picture.directions))


def _series(picture: EditedPicture, direction: str, names: Mapping[str, str]) -> Series:
    edits = _some(picture.along(direction))
    rows = {}
    for method in picture.unedited:
        name = names.get(method, method)
        rows[name] = tuple(
            Shown(draw_compact(edit.by_method[method]), f"{picture.key}, {direction} {signed(edit.magnitude)}, {name}")
            for edit in edits
        )
    return Series(direction, tuple(signed(edit.magnitude) for edit in edits), rows)


def _some(edits: Sequence[EditedImage]) -> list[EditedImage]:
    """Return at most `COLUMNS` edits, both ends and the unedited one among them."""
    if len(edits) <= COLUMNS:
        return list(edits)
    spread = set(np.linspace(0, len(edits) - 1, COLUMNS - 1).astype(int).tolist())
    zero = next(i for i, edit in enumerate(edits) if edit.magnitude == 0)
    return [edits[i] for i in sorted(spread | {zero})]


def signed(magnitude: float) -> str:
    """Return a magnitude for people: +1, −0.5, 0."""
    return "0" if magnitude == 0 else f"{magnitude:+g}".replace("-", "\N{MINUS SIGN}")
