"""The run report: one self-contained HTML page for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.files import staged
from pipeline.report.charts import (
    Curve,
    Drawing,
    Panel,
    colour_scale,
    draw_assignment,
    draw_calibration,
    draw_curve,
    draw_error,
    draw_image,
    draw_segments,
    draw_trade_off,
    error_ceiling,
    mean_position,
)
from pipeline.report.distributions import Numbers, draw_convergence, draw_histogram
from pipeline.report.edited import EditedPicture
from pipeline.report.edits_page import EDITS_PAGE, names_of_all, rows_of_edits
from pipeline.report.encoder_training import EncoderTrainingReport
from pipeline.report.figures import count, decimal, percent
from pipeline.report.map_quality import MapQuality
from pipeline.report.summary import SAM, Picture, Quarantined, StageTiming, Summary, steps
from pipeline.report.templates import page_environment, verbatim
from pipeline.report.training import TrainingReport
from pipeline.tune.curve import Point, TradeOffCurve

MAX_ROWS = 500
"""Number of quarantined samples that a report lists; the index has them all."""

MAX_UNGROUPED = 20
"""Up to this number, quarantined samples are one plain table; more are grouped by reason."""

MAX_WARNINGS = 50
"""Number of failed units, and of faulty shards, that a report names."""


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One image of a sample's row in the gallery; `shares` are drawn as a bar below it."""

    kind: str
    name: str
    figure: str
    alt: str
    drawing: Drawing | None  # None if only other samples have such an image
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """A sample of the gallery."""

    picture: Picture
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Quarantined samples with one reason: their number, and those that are shown."""

    reason: str
    count: int
    shown: tuple[Quarantined, ...]


def write_page(path: Path, page: str) -> None:
    """Write a rendered report, whole or not at all; missing folders are created."""
    with staged(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")  # a key may hold surrogates


def render_report(
    *,
    title: str,
    summary: Summary,
    timings: Sequence[StageTiming],
    pictures: Sequence[Picture],
    quarantine: Sequence[Quarantined],
    settings: str,
    about: Mapping[str, str],
    training: TrainingReport | None = None,
    psnr_db: Numbers = (),
    latents: Mapping[str, str] = {},
    edited: Sequence[EditedPicture] = (),
    encoder_training: EncoderTrainingReport | None = None,
) -> str:
    """Return the report as one HTML page that needs no other file.

    Args:
        title: of the run.
        summary: the figures.
        timings: in the order of the stages.
        pictures: samples of the gallery, in its order.
        quarantine: all samples that could not be processed.
        settings: the run's YAML.
        about: versions, devices, digests; entries named `note...` are shown at the top of the page.
        training: of the segmenter.
        psnr_db: of the SAM inversion of every recorded sample.
        latents: the locations of the bundles, by content.
        edited: samples with their edits; the first of them are shown.
        encoder_training: of the encoder, if the run trained one.
    """
    ceiling = error_ceiling(error_HW for picture in pictures for error_HW in (*picture.predicted_LHW, picture.error_HW))
    groups = group_quarantine(quarantine)
    samples = summary.samples
    height_px, width_px = summary.resolution_px
    environment = page_environment()
    return environment.get_template("report.html.j2").render(
        title=title,
        size=f"{width_px} × {height_px} px",
        sam=SAM,
        style=verbatim(environment, "report.css"),
        script=verbatim(environment, "report.js"),
        summary=summary,
        tiles=headline(summary),
        unaccounted=samples.inventory - samples.recorded - samples.quarantined,
        failed_units=list(summary.failed_units.items()),
        shard_faults=list(summary.shard_faults.items()),
        max_warnings=MAX_WARNINGS,
        steps=summary.steps_of_both,
        held_out=any(value is not None for value in summary.psnr_db.values()),
        curves=_curves(summary),
        panels=_panels(summary.trade_off),
        found=_found(summary),
        calibration=_calibration(summary.maps),
        training=training,
        encoder_training=encoder_training,
        rows=_rows([picture for picture in pictures if not picture.worst], summary.spaces, ceiling),
        worst=_rows(_worst_first(pictures), summary.spaces, ceiling),
        distributions=_distributions(pictures, psnr_db),
        edited=rows_of_edits(edited, summary.spaces, ceiling),
        edits_page=EDITS_PAGE,
        method_names=names_of_all(summary.spaces),
        health=health(summary),
        latents=latents,
        scale={"colours": colour_scale(), "ceiling": ceiling},
        timings=timings,
        total_s=sum(timing.seconds for timing in timings),
        groups=groups,
        quarantine=quarantine,
        grouped=len(quarantine) > MAX_UNGROUPED,
        hidden=len(quarantine) - sum(len(group.shown) for group in groups),
        settings=settings,
        notes=[value for name, value in about.items() if name.lower().startswith("note")],
        about={name: value for name, value in about.items() if not name.lower().startswith("note")},
    )


def headline(summary: Summary) -> list[Tile]:
    """Return the headline figures; optional ones are omitted if unknown."""
    first, samples = summary.spaces[0], summary.samples
    accounted = f"{count(samples.recorded)} recorded + {count(samples.quarantined)} quarantined"
    alone = summary.psnr_db.get(first)
    tiles = [
        Tile("samples", count(samples.inventory), accounted),
        Tile("PSNR, SAM", decimal(summary.psnr_db_sam, unit="dB"), _alone(summary, alone)),
    ]
    occluded = dict(summary.psnr_db_occluded)
    sam_occluded = occluded.pop("sam", None)
    if sam_occluded is not None:
        alone = next(iter(occluded.values()), None)
        tiles.append(Tile("PSNR, SAM, occluded", decimal(sam_occluded, unit="dB"), _alone(summary, alone)))
    of_pixels = "of pixels" if sam_occluded is None else "of pixels, occluded samples"
    tiles += [
        Tile("perceptual error, SAM", decimal(summary.lpips_sam, 3), summary.perceptual),
        Tile(f"share left in {first}", percent(summary.share_w_plus), of_pixels),
    ]
    found = {"invertibility map": summary.auroc_predicted_map, "error map": summary.auroc_error_map}
    known = [(name, decimal(auroc, 3)) for name, auroc in found.items() if auroc is not None]
    if known:
        (name, value), *others = known
        note = "; ".join(["of known occluders", *(f"{name} {value}" for name, value in others)])
        tiles.append(Tile(f"AUROC, {name}", value, note))
    if summary.maps.average_precision_predicted_map is not None:
        note = f"error map {decimal(summary.maps.average_precision_error_map, 3)}; {_chance(summary.maps)}"
        value = decimal(summary.maps.average_precision_predicted_map, 3)
        tiles.append(Tile("average precision, invertibility map", value, note))
    return tiles


def health(summary: Summary) -> list[tuple[str, bool]]:
    """Return what went wrong in a run, each with its severity: damaged shards, quarantined samples, failed units."""
    counts = (
        (len(summary.shard_faults), "shard with faults", "shards with faults"),
        (summary.samples.quarantined, "sample quarantined", "samples quarantined"),
        (len(summary.failed_units), "unit failed", "units failed"),
    )
    return [
        (f"{count(number) if number else 'no'} {one if number == 1 else many}", number > 0)
        for number, one, many in counts
    ]


def group_quarantine(quarantine: Sequence[Quarantined]) -> list[Group]:
    """Return the quarantined samples by reason, the most frequent first, with at most `MAX_ROWS` samples shown.

    Each reason gets an equal part of the rows, so that a common one does not hide a rare one.
    """
    by_reason: defaultdict[str, list[Quarantined]] = defaultdict(list)
    for sample in quarantine:
        by_reason[sample.reason].append(sample)
    left = MAX_ROWS
    shown: dict[str, int] = {}
    for done, (reason, samples) in enumerate(sorted(by_reason.items(), key=lambda item: len(item[1]))):
        shown[reason] = min(len(samples), left // (len(by_reason) - done))
        left -= shown[reason]
    commonest = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return [Group(reason, len(samples), tuple(samples[: shown[reason]])) for reason, samples in commonest]


def _alone(summary: Summary, psnr_db: float | None) -> str:
    """Return the result of the first space alone, with the steps of both if they are known."""
    alone = "" if psnr_db is None else f"{summary.spaces[0]} alone {decimal(psnr_db, unit='dB')}"
    if not alone or summary.steps_single is None or summary.steps_sam is None:
        return alone
    return f"{alone} after {steps(summary.steps_single)}, SAM {steps(summary.steps_sam)}"


def _chance(maps: MapQuality) -> str:
    return f"chance {decimal(maps.average_precision_chance, 3)}"


def _found(summary: Summary) -> list[tuple[str, float | None, float | None]]:
    """Return how well either map finds known occluders: name, AUROC and average precision."""
    maps = summary.maps
    found = [
        ("invertibility map", summary.auroc_predicted_map, maps.average_precision_predicted_map),
        ("error map", summary.auroc_error_map, maps.average_precision_error_map),
    ]
    return [row for row in found if row[1:] != (None, None)]


def _calibration(maps: MapQuality) -> list[tuple[str, str]]:
    """Return the drawn calibration of every space that has one."""
    return [(space, draw_calibration(space, points)) for space, points in maps.calibration.items() if points]


def _curves(summary: Summary) -> list[tuple[Curve, str]]:
    """Return the panels of the trade-off curve that have data."""
    position = mean_position(summary.spaces, summary.shares)
    error = f"perceptual error ({summary.perceptual})"
    panels = (
        Curve("PSNR (dB)", summary.psnr_db, summary.psnr_db_sam, digits=2, high_is_good=True),
        Curve(error, summary.lpips, summary.lpips_sam, digits=3, high_is_good=False),
    )
    shown = [curve for curve in panels if any(value is not None for value in curve.values.values())]
    return [(curve, draw_curve(curve, summary.spaces, position)) for curve in shown]


def _panels(curve: TradeOffCurve | None) -> list[tuple[str, str]]:
    """Return fidelity against editable area, each panel with its label, drawn."""
    if curve is None:
        return []
    points, space = sorted(curve.points, key=lambda point: point.editable), next(iter(curve.points[0].shares))
    at_knee = next((i for i, point in enumerate(points) if point.threshold == curve.knee), None)

    def panel(label: str, value: Callable[[Point], float], *, high_is_good: bool) -> tuple[str, str]:
        named = [(point.editable, value(point), f"{point.threshold:g}") for point in points]
        sam = curve.configured
        at = None if sam is None else (sam.editable, value(sam), f"{sam.threshold:g}")
        return label, draw_trade_off(Panel(label, named, at_knee, at, high_is_good=high_is_good), space)

    error = f"perceptual error ({curve.perceptual})"
    return [
        panel("PSNR (dB)", lambda point: point.psnr_db, high_is_good=True),
        panel(error, lambda point: point.lpips, high_is_good=False),
    ]


def _worst_first(pictures: Sequence[Picture]) -> list[Picture]:
    return sorted((picture for picture in pictures if picture.worst), key=lambda picture: picture.psnr_db)


def _distributions(pictures: Sequence[Picture], psnr_db: Numbers) -> list[tuple[str, str]]:
    """Return the drawn distribution of PSNR and the convergence of the shown samples, each with a label."""
    drawn = [
        (f"PSNR of {count(len(psnr_db))} samples", draw_histogram(psnr_db, "PSNR of SAM (dB)")),
        ("Loss by optimisation step", draw_convergence([p.trace for p in pictures if p.trace is not None])),
    ]
    return [(label, svg) for label, svg in drawn if svg is not None]


def _rows(pictures: Sequence[Picture], spaces: Sequence[str], ceiling: float) -> list[Row]:
    """Return the gallery; the column of the first space alone is there if any sample has it."""
    with_alone = any(picture.w_plus_HW3 is not None for picture in pictures)
    return [Row(picture, tuple(_cells(picture, spaces, ceiling, with_alone=with_alone))) for picture in pictures]


def _cells(picture: Picture, spaces: Sequence[str], ceiling: float, *, with_alone: bool) -> Iterator[Cell]:
    """Yield a sample's images from left to right: input, decisions, output."""
    first, key, input_HW3 = spaces[0], picture.key, picture.image_HW3
    height, width = input_HW3.shape[:2]
    yield Cell("input", "input", f"{width} × {height} px", f"Input of {key}", draw_image(input_HW3))

    for space, error_HW in zip(spaces, picture.predicted_LHW, strict=True):
        mean = f"mean {decimal(float(error_HW.mean()), 3)}"
        alt = f"Invertibility map of {key} in {space}, predicted error, {mean}"
        yield Cell("predicted", f"predicted, {space}", mean, alt, draw_error(error_HW, ceiling))

    if picture.labels_HW is not None:
        segments = len(np.unique(picture.labels_HW))
        figure, alt = f"{segments} segment{'' if segments == 1 else 's'}", f"Segmentation of {key}, {segments} segments"
        yield Cell("segments", "segmentation", figure, alt, draw_segments(picture.labels_HW, input_HW3))

    shares = tuple((space, float((picture.assignment_HW == i).mean())) for i, space in enumerate(spaces))
    alt = f"Assignment of {key}: " + ", ".join(f"{space} {percent(share, 0)}" for space, share in shares if share > 0)
    overlay = draw_assignment(picture.assignment_HW, input_HW3, spaces)
    yield Cell("assignment", "assignment", f"{percent(shares[0][1], 0)} in {first}", alt, overlay, shares)

    if with_alone:
        alone = None if picture.w_plus_HW3 is None else draw_image(picture.w_plus_HW3)
        figure, alt = decimal(picture.w_plus_psnr_db, unit="dB"), f"Inversion of {key} in {first} alone"
        yield Cell("alone", f"{first} alone", figure, alt, alone)

    figure, alt = decimal(picture.psnr_db, unit="dB"), f"SAM inversion of {key}"
    yield Cell("sam", "SAM", figure, alt, draw_image(picture.sam_HW3))
    figure = f"mean {decimal(float(picture.error_HW.mean()), 3)}"
    alt = f"Error map of the SAM inversion of {key}"
    yield Cell("error", "error of SAM", figure, alt, draw_error(picture.error_HW, ceiling))
