"""The results of a run as numbers: `summary.json`, and everything the report shows."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.publish.rows import figure, having, numbers_of
from pipeline.report.checks import Check, psnr_order
from pipeline.report.edit_truth import EditTruth
from pipeline.report.figures import ratio
from pipeline.report.map_quality import MapQuality
from pipeline.tune.curve import TradeOffCurve
from stages.error_maps import ErrorMaps
from stages.invert import Invert
from stages.maps.spaces import column
from stages.predict_maps import PredictMaps

Row = Mapping[str, Any]
UNKNOWN = "–"
PSNR_DB = figure(Invert, "psnr_db")
OCCLUDED = figure(ErrorMaps, "occluded")

SAM = "spatially-adaptive multilayer inversion"
"""The method's name, as reports and tables define it at first use; it is not Segment Anything."""


@dataclass(frozen=True)
class Samples:
    """The account of all samples: inventory = recorded + quarantined."""

    inventory: int
    recorded: int
    quarantined: int


@dataclass(frozen=True)
class StageTiming:
    """The work of a stage: units, samples, and the seconds during which any of its units was worked on."""

    name: str
    units: int
    samples: int
    seconds: float
    devices: tuple[str, ...] = ()
    worked_s: float = 0.0  # of all workers together

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds of a worker per sample; None without timings."""
        return self.worked_s / self.samples if self.samples and self.worked_s else None

    @property
    def images_per_s(self) -> float:
        """Samples per second; 0 without timings."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Summary:
    """The figures of a run. Evaluation is over held-out samples, which no segmenter was trained on; None if absent.

    PSNR in dB (images in [0, 1], active region, mean over images), perceptual errors in the distance named with them.
    """

    samples: Samples
    seconds: dict[str, float]
    spaces: tuple[str, ...]
    perceptual: str
    resolution_px: tuple[int, int]  # height and width at which PSNR and perceptual error are measured
    psnr_db: dict[str, float | None]  # of single-space inversions, by space
    lpips: dict[str, float | None]
    psnr_db_sam: float | None
    lpips_sam: float | None
    psnr_db_occluded: dict[str, float | None]  # w_plus alone, and sam
    share_w_plus: float | None  # of pixels, on occluded samples if they are known, else on all
    shares: dict[str, float | None]  # of pixels by space, over all samples
    auroc_error_map: float | None
    auroc_predicted_map: float | None
    zero_edit_difference: float | None  # largest, between a zero edit and the stored reconstruction
    maps: MapQuality = field(default_factory=MapQuality)
    edits: EditTruth | None = None  # of edits against the truth, where the shards hold it
    trade_off: TradeOffCurve | None = None  # of other thresholds, if `tune --invert` measured it
    shard_faults: dict[str, list[str]] = field(default_factory=dict)  # unread input
    shard_notes: dict[str, list[str]] = field(default_factory=dict)  # notes for its owner
    passed_over: dict[str, int] = field(default_factory=dict)  # files of shards that belong to no sample, by kind
    failed_units: dict[str, str] = field(default_factory=dict)
    maps_px: tuple[int, int] | None = None  # of error maps and predicted maps
    steps_single: int | None = None  # of an inversion in one space alone
    steps_sam: float | None = None  # of a SAM inversion, mean
    method: str = ""  # how codes were found; figures called SAM are of this method
    seconds_per_image: float | None = None  # of a worker, for that method
    index: str = ""  # receipt of the index of these figures
    gaps: dict[str, Any] = field(default_factory=dict)  # gaps of that index; empty if it is complete

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values without infinities; map quality is next to the other figures."""
        values = asdict(self)
        maps: dict[str, Any] = values.pop("maps")
        checks = {"checks": {name: asdict(check) for name, check in self.checks.items()}}
        plain: dict[str, Any] = _plain(values | maps | checks)
        return plain

    @property
    def checks(self) -> dict[str, Check]:
        """The rules for these figures, by name."""
        return {"psnr_order": psnr_order({space: self.psnr_db.get(space) for space in self.spaces})}

    @property
    def steps_of_both(self) -> str:
        """The steps of a SAM inversion and of one in a space alone, in words; empty if unknown."""
        if self.steps_single is None or self.steps_sam is None:
            return ""
        return f"{steps(self.steps_sam)}, a space alone {steps(self.steps_single)}"

    def headlines(self) -> list[tuple[str, str]]:
        """Return the figures that a run prints, each with its name and unit."""
        counts = self.samples
        occluded = {name: value for name, value in self.psnr_db_occluded.items() if value is not None}
        figures = [
            ("samples", f"{counts.inventory} = {counts.recorded} recorded + {counts.quarantined} quarantined"),
            ("PSNR, held out", self._by_space()),
            ("order of the spaces", self._order()),
            ("PSNR, SAM", f"{_figure(self.psnr_db_sam, 2)} dB; {self.perceptual}: {_figure(self.lpips_sam, 4)}"),
            ("PSNR where occluded", ", ".join(f"{name} {_figure(value, 2)} dB" for name, value in occluded.items())),
            ("method", self._method()),
            ("steps, SAM", self.steps_of_both),
            ("pixels left in " + self.spaces[0], _figure(self.share_w_plus, 3)),
            ("AUROC, error map", _figure(self.auroc_error_map, 4)),
            ("AUROC, predicted map", _figure(self.auroc_predicted_map, 4)),
            ("average precision, error map", _figure(self.maps.average_precision_error_map, 4)),
            ("average precision, predicted map", _figure(self.maps.average_precision_predicted_map, 4)),
            ("correlation per segment", _figures(self.spaces, self.maps.correlation_per_segment)),
            ("predicted minus achieved error", _figures(self.spaces, self.maps.bias_per_segment, "+.4f")),
            ("zero edit differs by", _figure(self.zero_edit_difference, 6)),
            ("edits, PSNR to the truth", self._edits_to_truth()),
            ("edits, change inside : occluder", self._edits_inside()),
            ("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())),
        ]
        return [(name, figure) for name, figure in figures if figure not in ("", UNKNOWN)]

    def _method(self) -> str:
        per_image = self.seconds_per_image
        return self.method if per_image is None else f"{self.method}, {per_image:.3g} s of a worker per image"

    def _order(self) -> str:
        check = self.checks["psnr_order"]
        return "" if check.holds is None else f"{check.rule}: {check.verdict}"

    def _edits_to_truth(self) -> str:
        if self.edits is None:
            return ""
        return ", ".join(f"{name} {value:.2f}" for name, value in self.edits.all.psnr_to_truth_db.items()) + " dB"

    def _edits_inside(self) -> str:
        if self.edits is None:
            return ""
        ratios = self.edits.all.inside_outside_ratio
        return ", ".join(f"{name} {ratio(value)}" for name, value in ratios.items())

    def _by_space(self) -> str:
        """Return PSNR in every space alone, with the signs of its order (it rises in thesis Fig. 3.2)."""
        values = [self.psnr_db[space] for space in self.spaces]
        if not any(values):
            return UNKNOWN
        shown = [f"{space} {_figure(value, 2)}" for space, value in zip(self.spaces, values, strict=True)]
        signs = [_order(a, b) for a, b in itertools.pairwise(values)]
        return "".join(itertools.chain.from_iterable(zip(shown, [*signs, " dB"], strict=True)))


@dataclass(frozen=True)
class Picture:
    """One sample of the report's gallery. Images `[H, W, 3]` uint8; maps in the perceptual distance."""

    key: str
    shard: str
    role: str | None  # "supervision", "held_out" or None
    image_HW3: NDArray[np.uint8]
    predicted_LHW: NDArray[np.float32]
    assignment_HW: NDArray[np.uint8]
    sam_HW3: NDArray[np.uint8]
    error_HW: NDArray[np.float32]  # of the SAM inversion
    psnr_db: float
    lpips: float
    labels_HW: NDArray[np.integer] | None = None  # the segments of the assignment
    trace: tuple[NDArray[np.generic], NDArray[np.generic]] | None = None  # steps and the loss at each of them
    worst: bool = False  # shown because its PSNR is among the lowest of the run
    w_plus_HW3: NDArray[np.uint8] | None = None  # the inversion in W+ alone, if supervision kept it
    w_plus_psnr_db: float | None = None


@dataclass(frozen=True)
class Quarantined:
    """A sample that could not be processed."""

    shard: str
    key: str
    reason: str


def steps(count: float) -> str:
    """Return a number of steps, which may be fractional for a mean, with its unit."""
    return f"{count:,.0f} steps" if count == round(count) else f"{count:,.1f} steps"


def _plain(value: Any) -> Any:  # noqa: ANN401  # any value of a summary
    """Return a value with None instead of infinities and NaN, which are not JSON."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _order(a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return ", "
    return " < " if a < b else " > " if a > b else " = "


def _figure(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _figures(spaces: Sequence[str], values: Mapping[str, float | None], form: str = ".3f") -> str:
    return ", ".join(f"{space} {value:{form}}" for space in spaces if (value := values.get(space)) is not None)


class Means:
    """Means of columns over groups of rows, added up table by table; each table's own sum is exact."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self.counts: Counter[str] = Counter()  # rows by outcome and group
        self._sums: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._measured: Counter[tuple[str, str]] = Counter()
        for table in tables:
            self._add(table)

    def of(self, name: str, *groups: str) -> float | None:
        """Return the mean over the first of the groups that has rows, of those that have a value; None if none has."""
        group = next((group for group in groups if self.counts[group]), groups[-1])
        count = self._measured[group, name]
        return math.fsum(self._sums[group, name]) / count if count else None

    def _add(self, table: pa.Table) -> None:
        recorded = having(table, outcome="recorded")
        held_out = pc.and_(recorded, having(table, role="held_out"))
        occluded = pc.and_(held_out, having(table, **{OCCLUDED: "true"}))
        self.counts["quarantined"] += pc.sum(having(table, outcome="quarantined")).as_py() or 0
        for group, mask in {"recorded": recorded, "held_out": held_out, "occluded": occluded}.items():
            self.counts[group] += pc.sum(mask).as_py() or 0
            for measured in table.schema:
                if pa.types.is_floating(measured.type) or pa.types.is_integer(measured.type):
                    values = numbers_of(table, measured.name, mask)
                    self._sums[group, measured.name].append(math.fsum(values))
                    self._measured[group, measured.name] += len(values)


def evaluate(means: Means, spaces: Sequence[str]) -> dict[str, Any]:
    """Return the figures of `Summary` that come from the rows of the index."""
    columns = {space: column(space) for space in spaces}
    single = functools.partial(figure, ErrorMaps)
    sam = functools.partial(figure, Invert)
    first = columns[spaces[0]]
    return {
        "psnr_db": {space: means.of(single(f"psnr_db_{name}"), "held_out") for space, name in columns.items()},
        "lpips": {space: means.of(single(f"lpips_{name}"), "held_out") for space, name in columns.items()},
        "psnr_db_sam": means.of(PSNR_DB, "held_out", "recorded"),
        "lpips_sam": means.of(sam("lpips"), "held_out", "recorded"),
        "steps_sam": means.of(sam("steps"), "held_out", "recorded"),
        "psnr_db_occluded": {
            first: means.of(single(f"psnr_db_{first}"), "occluded"),
            "sam": means.of(PSNR_DB, "occluded"),
        },
        "share_w_plus": means.of(sam(f"share_{first}"), "occluded", "recorded"),
        "shares": {space: means.of(sam(f"share_{name}"), "recorded") for space, name in columns.items()},
        "auroc_error_map": means.of(single("auroc"), "held_out"),
        "auroc_predicted_map": means.of(figure(PredictMaps, "auroc"), "held_out"),
    }


def columns_of(spaces: Sequence[str]) -> set[str]:
    """Return the columns that `evaluate` needs."""
    each = ((ErrorMaps, "psnr_db"), (ErrorMaps, "lpips"), (Invert, "share"))
    columns = {figure(stage, f"{name}_{column(space)}") for stage, name in each for space in spaces}
    columns |= {"outcome", "role", OCCLUDED, figure(ErrorMaps, "auroc"), figure(PredictMaps, "auroc")}
    return columns | {PSNR_DB, figure(Invert, "lpips"), figure(Invert, "steps")}
