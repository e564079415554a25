"""The grid of methods and images (thesis Fig. 4.3): inversions, and one edit of each."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.evaluation.measured import ImageRow, Measured
from pipeline.evaluation.reading import codes_of, samples_of, viewer_of
from pipeline.evaluation.samples import Name
from stages.editability import Editability
from stages.editing.editor import Editor
from stages.editing.settings import EditOfCodes
from stages.inversion.viewer import Viewer
from stages.maps.region import fit, to_uint8

Pixels = NDArray[np.uint8]
_TILE_PX, _GAP_PX, _TEXT_PX = 128, 6, 30
_PAPER, _INK = (255, 255, 255), (40, 44, 52)


@dataclass(frozen=True)
class Cell:
    """One image by one method: `[H, W, 3]` uint8; the edited image is None without edits."""

    psnr_db: float
    inverted_HW3: Pixels
    edited_HW3: Pixels | None


@dataclass(frozen=True)
class GridRow:
    """One image by all methods, by their names."""

    key: str
    image_HW3: Pixels
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Grid:
    """Images by all methods; `edit` is the label of the edit that is shown, empty without one."""

    rows: tuple[GridRow, ...]
    methods: tuple[str, ...]
    edit: str = ""


def grid_of(methods: Sequence[Measured], viewer: Viewer, count: int, occluded: frozenset[Name] | None) -> Grid:
    """Return the images that most methods have, occluded ones first, by every method that has them."""
    names = _chosen(methods, count, occluded or frozenset())
    edit = _edit(methods, viewer)
    images, cells = dict[Name, Pixels](), defaultdict[Name, dict[str, Cell]](dict)
    for method in methods:
        for row, image_HW3, cell in _cells(method, viewer, names, edit):
            images[row.name] = image_HW3
            cells[row.name][method.name] = cell
    rows = tuple(GridRow(name[1], images[name], cells[name]) for name in names if name in images)
    return Grid(rows, tuple(method.name for method in methods), "" if edit is None else edit.label)


def sheet(grid: Grid) -> bytes:
    """Return the grid as PNG: a column per method; of each image its inversions, then their edits."""
    lines = list(_lines(grid))
    height, width = grid.rows[0].image_HW3.shape[:2]
    scale = _TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = size[0] + _GAP_PX, size[1] + _GAP_PX
    headings = ("input", *grid.methods)
    canvas = Image.new("RGB", (_GAP_PX + across * len(headings), _TEXT_PX + down * len(lines) + _GAP_PX), _PAPER)
    ink = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        ink.text((_GAP_PX + across * column, _GAP_PX), heading.encode("ascii", "replace").decode(), _INK)
    for line, tiles in enumerate(lines):
        for column, tile in enumerate(tiles):
            if tile is not None:
                resized = Image.fromarray(tile).resize(size, Image.Resampling.BICUBIC)
                canvas.paste(resized, (_GAP_PX + across * column, _TEXT_PX + down * line))
    sink = io.BytesIO()
    canvas.save(sink, "png")
    return sink.getvalue()


def _lines(grid: Grid) -> Iterator[list[Pixels | None]]:
    for row in grid.rows:
        cells = [row.cells.get(name) for name in grid.methods]
        yield [row.image_HW3, *(None if cell is None else cell.inverted_HW3 for cell in cells)]
        if grid.edit:
            yield [None, *(None if cell is None else cell.edited_HW3 for cell in cells)]


def _chosen(methods: Sequence[Measured], count: int, occluded: frozenset[Name]) -> list[Name]:
    having: defaultdict[Name, int] = defaultdict(int)
    for method in methods:
        for row in method.rows:
            having[row.name] += 1
    return sorted(having, key=lambda name: (-having[name], name not in occluded, name))[:count]


def _edit(methods: Sequence[Measured], viewer: Viewer) -> EditOfCodes | None:
    """Return the edit of the grid: the last of the first direction, None without edits."""
    step = next((method.method.editing for method in methods if method.method.editing is not None), None)
    if step is None:
        return None
    edits = cast("Editability", step.stage).edits(viewer.generator)
    return [edit for edit in edits if edit.name == edits[0].name][-1]


def _cells(
    method: Measured, viewer: Viewer, names: Sequence[Name], edit: EditOfCodes | None
) -> Iterator[tuple[ImageRow, Pixels, Cell]]:
    wanted = [row for row in method.rows if row.name in set(names)]
    for row, sample in samples_of(method, wanted):
        own = viewer_of(sample, viewer)
        edits = () if edit is None else (edit,)
        pictures = [
            to_uint8(p.image_N3HW)[0] for p in Editor(own.generator, own.region).pictures(codes_of(sample), edits)
        ]
        image_3HW = fit(method.method.plan.image.picture(sample).pixels_HW3, viewer.region)
        yield row, to_uint8(image_3HW[None])[0], Cell(row.psnr_db, pictures[0], pictures[1] if edits else None)
