"""`invertmill view`: one published image on a sheet: input, predicted maps, assignment, reconstruction, error."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from pipeline.errors import CommandError
from pipeline.execution.run import RunResult
from pipeline.publish.rows import IndexRows
from pipeline.report.charts import assignment_picture, error_ceiling, error_picture
from pipeline.report.conclude import viewer_of
from pipeline.report.gallery import Gallery
from pipeline.report.summary import Picture, Row

_GAP_PX, _TEXT_PX, _TILE_PX = 8, 30, 192
_PAPER, _INK = (255, 255, 255), (40, 44, 52)


def view(finished: RunResult, key: str, unit: str | None = None) -> bytes:
    """Return the sheet of a published image as PNG.

    Args:
        finished: what is published.
        key: of the image.
        unit: of the image, where several have the key.

    Raises:
        CommandError: no image has the key, or it was quarantined, or its photograph is no longer in the input.
    """
    plan = finished.plan
    row = _row(IndexRows(plan.ledger, finished.published), key, unit)
    viewer = viewer_of(plan)
    gallery = Gallery(
        plan.ledger, plan.sources, finished.index, finished.shards, viewer, plan.image, plan.config.maps.side_px
    )
    picture = next((picture for picture, _ in gallery.pictures([row])), None)
    if picture is None:
        raise CommandError(f"the photograph of {key!r} is no longer in the input: `invertmill render` needs none")
    return sheet(picture, plan.spaces)


def sheet(picture: Picture, spaces: Sequence[str]) -> bytes:
    """Return the sheet of an image as PNG: all maps have one scale."""
    tiles = list(_tiles(picture, spaces))
    height, width = picture.image_HW3.shape[:2]
    scale = _TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across = size[0] + _GAP_PX
    canvas = Image.new("RGB", (_GAP_PX + across * len(tiles), _TEXT_PX + size[1] + 2 * _GAP_PX), _PAPER)
    ink = ImageDraw.Draw(canvas)
    for number, (title, tile) in enumerate(tiles):
        left = _GAP_PX + across * number
        ink.text((left, _GAP_PX // 2), textwrap.fill(title, max(8, size[0] // 6)), _INK)
        canvas.paste(tile.convert("RGB").resize(size), (left, _TEXT_PX + _GAP_PX))
    sink = io.BytesIO()
    canvas.save(sink, "png")
    return sink.getvalue()


def _tiles(picture: Picture, spaces: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    ceiling = error_ceiling([*picture.predicted_LHW, picture.error_HW])
    yield picture.key.encode("ascii", "replace").decode(), Image.fromarray(picture.image_HW3)
    for space, error_HW in zip(spaces, picture.predicted_LHW, strict=True):
        yield f"predicted {space}\n0 to {ceiling:.2g}", error_picture(error_HW, ceiling)
    yield "assignment", assignment_picture(picture.assignment_HW, picture.image_HW3, spaces)
    yield f"SAM\n{picture.psnr_db:.2f} dB", Image.fromarray(picture.sam_HW3)
    yield f"error\nmean {picture.lpips:.3f}", error_picture(picture.error_HW, ceiling)


def _row(rows: IndexRows, key: str, unit: str | None) -> Row:
    found: list[Row] = [row for row in rows.rows(key=key) if unit is None or row["unit"] == unit]
    if not found:
        raise CommandError(f"the published index has no key {key!r}; `open_bundles(...).keys()` lists all")
    if len(found) > 1:
        raise CommandError(f"several images have the key {key!r}: add --unit, of {', '.join(r['unit'] for r in found)}")
    if found[0]["outcome"] != "recorded":
        raise CommandError(f"there is no image {key!r}: it was quarantined ({found[0]['reason']})")
    return found[0]
