"""The tables of an evaluation: Table 4.1, the points of Fig. 3.2 and 4.1, the ablations of Sec. 4.6, the claims."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.evaluation.claims import Claim
from pipeline.evaluation.measured import Measured
from pipeline.evaluation.methods import ABLATION, SAM, Regime
from pipeline.evaluation.samples import Name
from pipeline.evaluation.statistics import Bootstrap, Mean, mean_of

UNKNOWN = "–"


@dataclass(frozen=True)
class Circumstances:
    """What stands next to every table: without it, figures of two evaluations must not share a column."""

    perceptual: str
    perceptual_digest: str
    height_px: int
    width_px: int
    images: int
    hardware: str
    generator: str  # its digest
    spaces: tuple[str, ...]
    threshold: float
    resamples: int
    seed: int

    @property
    def sentences(self) -> list[str]:
        """Everything in words."""
        return [
            f"Perceptual error: {self.perceptual}, SHA-256 {self.perceptual_digest[:16]}; low is good. PSNR in dB of "
            f"images in [0, 1], mean over images. Both at {self.height_px} x {self.width_px} px.",
            f"{self.images} held-out images; a method with fewer says so. Brackets: 95 % intervals, {self.resamples:,} "
            f"resamples of the images, seed {self.seed}.",
            f"Hardware: {self.hardware}. Seconds are of one worker per image. Methods ran one after the other, so "
            "other load on the machine changes their ratios.",
            f"Generator: SHA-256 {self.generator[:16]}; spaces {', '.join(self.spaces)}; threshold {self.threshold:g}.",
            "Figures with another distance, size or set of images belong in another table, published ones too.",
        ]


@dataclass(frozen=True)
class Line:
    """One method in a table."""

    name: str
    kind: str
    regime: Regime
    title: str
    images: int
    quarantined: int
    missing_units: int
    steps: float | None
    psnr_db: Mean | None
    lpips: Mean | None
    share_first: float | None
    seconds_per_image: float | None
    fingerprint: str
    editability: Mean | None = None
    strength: float | None = None  # of edits, means over the images where they are known
    leakage: float | None = None
    realism: float | None = None

    def flat(self) -> dict[str, Any]:
        """Return the line as columns."""
        columns: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("psnr_db", "lpips", "editability"):
                columns |= {
                    field.name: None if value is None else float(value.value),
                    f"{field.name}_low": None if value is None else value.low,
                    f"{field.name}_high": None if value is None else value.high,
                }
            else:
                columns[field.name] = value
        return columns


@dataclass(frozen=True)
class Evaluation:
    """Everything an evaluation says."""

    circumstances: Circumstances
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...]
    methods: tuple[Measured, ...]
    occluded: frozenset[Name] | None = None  # images with a known occluder; None if none is known

    @property
    def complete(self) -> bool:
        """Whether every method has all of its units."""
        return all(line.missing_units == 0 for line in self.lines)

    def regime(self, regime: Regime) -> list[Line]:
        """Return the methods of a regime, without ablations (Table 4.1)."""
        return [line for line in self.lines if line.regime == regime and not line.kind.startswith(ABLATION)]

    @property
    def single(self) -> list[Line]:
        """The methods in one space alone, most editable first (Fig. 3.2)."""
        by_space = {one.method.space: line for one, line in zip(self.methods, self.lines, strict=True)}
        return [by_space[space] for space in ("W", *self.circumstances.spaces) if space in by_space]

    @property
    def ablations(self) -> list[Line]:
        """SAM, and SAM without one part each (Sec. 4.6)."""
        sam = [line for line in self.lines if line.kind == SAM][:1]
        without = [line for line in self.lines if line.kind.startswith(ABLATION)]
        return [*sam, *without] if without else []


def line_of(one: Measured, bootstrap: Bootstrap) -> Line:
    """Return the line of a method."""
    return Line(
        name=one.name,
        kind=one.method.kind,
        regime=one.method.regime,
        title=one.method.title,
        images=len(one.rows),
        quarantined=one.quarantined,
        missing_units=one.missing,
        steps=one.steps,
        psnr_db=mean_of(list(one.psnr_db.values()), bootstrap),
        lpips=mean_of(list(one.lpips.values()), bootstrap),
        share_first=_mean(one.share_first.values()),
        seconds_per_image=one.seconds_per_image,
        fingerprint=one.fingerprint,
        editability=mean_of(list(one.editability.values()), bootstrap),
        strength=_mean(row.strength for row in one.rows),
        leakage=_mean(row.leakage for row in one.rows),
        realism=_mean(row.realism for row in one.rows),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


EDITING = ("method", "editability", "strength", "leakage", "realism", "PSNR, dB", "images")


def editing_cells_of(line: Line) -> tuple[str, ...]:
    """Return a method's figures of edits as text, in the order of `EDITING`."""
    proxies = [UNKNOWN if value is None else f"{value:.3f}" for value in (line.strength, line.leakage, line.realism)]
    _, psnr, _, editability, *_ = cells_of(line)
    return (line.name, editability, *proxies, psnr, str(line.images))


PROXIES = (
    "Editability: strength times 1 minus leakage, each the mean over edits clipped to [0, 1]; a proxy, not a judgement "
    "of people.",
    "Strength: change of features along that of the same edit on generator samples, which have 1 on average.",
    "Leakage: change of the pixels that should stay, over the change of all pixels of generator samples.",
    "Realism: distance of a generator sample from its nearest other one, over that of the edited image, by features.",
)

HEADINGS = ("method", "PSNR, dB", "perceptual error", "editability", "seconds", "steps", "images")


def cells_of(line: Line) -> tuple[str, ...]:
    """Return a method's figures as text, in the order of `HEADINGS`."""
    return (
        line.name,
        UNKNOWN if line.psnr_db is None else line.psnr_db.shown(2),
        UNKNOWN if line.lpips is None else line.lpips.shown(4),
        UNKNOWN if line.editability is None else line.editability.shown(3),
        UNKNOWN if line.seconds_per_image is None else f"{line.seconds_per_image:.3g}",
        UNKNOWN if line.steps is None else f"{line.steps:.5g}",
        str(line.images),
    )


def markdown(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a table with its title and what stands next to it as Markdown."""
    lines = [f"# {title}", "", _row(headings), _row(["---"] * len(headings)), *map(_row, rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def claims_rows(claims: Iterable[Claim]) -> list[tuple[str, ...]]:
    """Return claims as text: claim, verdict, figure, and why."""
    return [(claim.text, claim.source, claim.verdict, claim.why) for claim in claims]


def verdicts_of(claims: Sequence[Claim]) -> str:
    """Return how many claims have which verdict, in words."""
    counts = Counter(claim.holds for claim in claims)
    return f"{counts[True]} hold, {counts[False]} fail, {counts[None]} are not measured"


def summary_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as plain values: `methods` and `claims` by name, and what stands next to them."""
    methods: dict[str, Mapping[str, Any]] = {line.name: _without_name(line.flat()) for line in evaluation.lines}
    claims = {claim.name: _without_name(dataclasses.asdict(claim)) for claim in evaluation.claims}
    shared = {"evaluation": dataclasses.asdict(evaluation.circumstances) | {"complete": evaluation.complete}}
    return {"methods": methods, "claims": claims, **shared}


def _without_name(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "name"}


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
