"""The claims of the thesis as named checks, each with its figure and a verdict; and the aims of this project.

A difference is the mean over the images that both methods have. A claim about it holds if all of its bootstrapped 95 %
interval is at least what is wanted, and not 0. Methods that optimise are compared at equal numbers of steps only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.evaluation.measured import Measured, find
from pipeline.evaluation.methods import (
    ABLATION,
    ENCODER,
    GAUSSIAN_PRIOR,
    HYBRID,
    PTI,
    SAM,
    SAM_ENCODER,
    SINGLE,
)
from pipeline.evaluation.samples import Name
from pipeline.evaluation.statistics import Bootstrap, Mean, Values, difference_of, mean_of
from stages.inversion.methods.space import W
from stages.maps.spaces import column

AIM_DB, AIM_SHARE = 2.0, 0.6
"""By how much SAM should beat other methods where images are occluded, and their share of pixels in the first space."""
TABLE, FIGURE_32, FIGURE_41, ABLATIONS, AIM = (
    "thesis Table 4.1",
    "thesis Fig. 3.2",
    "thesis Fig. 4.1",
    "thesis Sec. 4.6",
    "aim of this project",
)


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict; `holds` is None where it could not be measured, and `why` then says what is missing."""

    name: str
    text: str
    source: str
    unit: str
    wanted: float
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0
    holds: bool | None = None
    why: str = ""

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return {True: "holds", False: "fails", None: "not measured"}[self.holds]


@dataclass(frozen=True)
class Metric:
    """A figure of images, and which way is better."""

    name: str
    unit: str
    of: Callable[[Measured], Values]
    high_is_good: bool = True
    digits: int = 2


PSNR = Metric("psnr", "dB", lambda method: method.psnr_db)
EDITABILITY = Metric("editability", "of editability", lambda method: method.editability, digits=3)
LPIPS = Metric("lpips", "of the distance", lambda method: method.lpips, high_is_good=False, digits=4)


@dataclass(frozen=True)
class Judge:
    """Judges claims about some methods.

    `spaces` are the run's, most editable first; `occluded` the images with a known occluder, None if none is known.
    """

    methods: Sequence[Measured]
    spaces: Sequence[str]
    bootstrap: Bootstrap
    occluded: frozenset[Name] | None = None

    def claims(self) -> list[Claim]:
        """Return all claims."""
        return [
            self.monotone(),
            self.falling(),
            *self._optimisation(),
            *self._encoders(),
            *self._ablations(),
            *self._aims(),
        ]

    def monotone(self) -> Claim:
        """Return whether PSNR rises from each space to the next; the figure is the smallest rise."""
        claim = Claim("psnr_monotone", "PSNR of single spaces rises", FIGURE_32, "dB", 0.0)
        return self._in_order(claim, PSNR, rises=True)

    def falling(self) -> Claim:
        """Return whether editability falls from each space to the next; the figure is the smallest fall."""
        claim = Claim("editability_falls", "editability of single spaces falls", FIGURE_32, EDITABILITY.unit, 0.0)
        return self._in_order(claim, EDITABILITY, rises=False)

    def _in_order(self, claim: Claim, metric: Metric, *, rises: bool) -> Claim:
        text = f"{claim.text} in the order {', '.join(self.spaces)}"
        single = [find(self.methods, f"{SINGLE}{space}") for space in self.spaces]
        if missing := [space for space, method in zip(self.spaces, single, strict=True) if method is None]:
            return replace(claim, text=text, why=f"no method inverts in {', '.join(missing)} alone")
        pairs = itertools.pairwise(zip(self.spaces, single, strict=True))
        steps = [
            self.difference(
                replace(claim, text=f"from {a} to {b}"), two if rises else one, one if rises else two, metric
            )
            for (a, one), (b, two) in pairs
        ]
        known = [step for step in steps if step.figure is not None]
        if len(known) < len(steps) or not known:
            why = next((step.why for step in steps if step.figure is None), "there is one space")
            return replace(claim, text=text, why=why)
        least = min(known, key=lambda step: step.figure if step.figure is not None else 0.0)
        failed = [f"{step.text}: {step.why}" for step in known if not step.holds]
        return replace(least, text=text, holds=not failed, why="; ".join(failed) or f"{least.text}: {least.why}")

    def difference(
        self,
        claim: Claim,
        better: Measured | None,
        worse: Measured | None,
        metric: Metric,
        names: frozenset[Name] | None = None,
    ) -> Claim:
        """Return a claim judged by how much better one method is than another, over all or some images."""
        if better is None or worse is None:
            return replace(claim, why="no method of this kind has results in this evaluation")
        if reason := _unequal(better, worse):
            return replace(claim, why=reason)
        one, other = (better, worse) if metric.high_is_good else (worse, better)
        of_one = {name: value for name, value in metric.of(one).items() if names is None or name in names}
        mean = difference_of(of_one, metric.of(other), self.bootstrap)
        return judged(claim, mean, metric.digits)

    def _optimisation(self) -> Iterator[Claim]:
        sam = find(self.methods, SAM)
        for slug, kind in self._baselines().items():
            other = find(self.methods, kind)
            yield self._over(sam, other, f"sam_psnr_over_{slug}", f"SAM has a higher PSNR than {_said(slug)}", PSNR)
            yield self._over(sam, other, f"sam_lpips_under_{slug}", f"SAM has a lower error than {_said(slug)}", LPIPS)
        yield self._seconds(sam, find(self.methods, PTI))

    def _baselines(self) -> dict[str, str]:
        """The methods that SAM is compared with in the optimisation regime, by name."""
        spaces = {"w": f"{SINGLE}{W}", column(self.spaces[0]): f"{SINGLE}{self.spaces[0]}"}
        return spaces | {"gaussian_prior": GAUSSIAN_PRIOR, "hybrid": HYBRID, "pti": PTI}

    def _over(self, one: Measured | None, other: Measured | None, name: str, text: str, metric: Metric) -> Claim:
        return self.difference(Claim(name, text, TABLE, metric.unit, 0.0), one, other, metric)

    def _seconds(self, sam: Measured | None, other: Measured | None) -> Claim:
        claim = Claim("sam_faster_than_pti", "SAM takes less time per image than PTI", FIGURE_41, "times the time", 1.0)
        seconds = [None if one is None else one.seconds_per_image for one in (sam, other)]
        if seconds[0] is None or not seconds[1]:
            return replace(claim, why="no method of this kind has timings in this evaluation")
        ratio = seconds[0] / seconds[1]
        why = f"{ratio:.2f} times the seconds of PTI, each in its own steps; other load on the machine changes it"
        return replace(claim, figure=ratio, holds=ratio < claim.wanted, why=why)

    def _encoders(self) -> Iterator[Claim]:
        sam = find(self.methods, SAM_ENCODER)
        others: list[Measured | None] = [one for one in self.methods if one.method.kind == ENCODER and one.rows]
        for other in others or [None]:
            name = "encoders" if other is None else re.sub(r"\W+", "_", column(other.name)).strip("_")
            said = "other encoders" if other is None else other.name
            yield self._over(
                sam, other, f"sam_encoder_psnr_over_{name}", f"the SAM encoder has a higher PSNR than {said}", PSNR
            )
            yield self._over(
                sam, other, f"sam_encoder_lpips_under_{name}", f"the SAM encoder has a lower error than {said}", LPIPS
            )

    def _ablations(self) -> Iterator[Claim]:
        sam = find(self.methods, SAM)
        for part, said in (("refinement", "refinement"), ("delta_term", "L_F")):
            text = f"without {said}, editability is lower than with it"
            claim = Claim(f"without_{part}_editability_lower", text, ABLATIONS, EDITABILITY.unit, 0.0)
            yield self.difference(claim, sam, find(self.methods, f"{ABLATION}{part}"), EDITABILITY)
        classes = find(self.methods, f"{ABLATION}maps")
        text = "classes as map have a lower PSNR than predicted maps"
        claim = Claim("classes_as_map_psnr_lower", text, ABLATIONS, "dB", 0.0)
        yield self.difference(claim, sam, classes, PSNR)

    def _aims(self) -> Iterator[Claim]:
        if self.occluded is None:
            return
        sam = find(self.methods, SAM)
        for slug, kind in self._baselines().items():
            text = f"SAM has a PSNR at least {AIM_DB:g} dB above {_said(slug)} where occluders are known"
            claim = Claim(f"aim_psnr_over_{slug}_occluded", text, AIM, "dB", AIM_DB)
            yield self.difference(claim, sam, find(self.methods, kind), PSNR, self.occluded)
        first = self.spaces[0]
        text = f"SAM leaves at least {100 * AIM_SHARE:.0f} % of the pixels in {first} where occluders are known"
        claim = Claim("aim_share_first_occluded", text, AIM, "share of pixels", AIM_SHARE)
        if sam is None:
            yield replace(claim, why="no method of this kind has results in this evaluation")
            return
        values = [value for name, value in sam.share_first.items() if name in self.occluded]
        mean = mean_of(values, self.bootstrap)
        judgement = judged(claim, mean, 3)
        yield judgement if mean is None else replace(judgement, holds=mean.value >= claim.wanted)


def judged(claim: Claim, mean: Mean | None, digits: int) -> Claim:
    """Return a claim with the verdict that a mean and its interval give."""
    if mean is None:
        return replace(claim, why="the two methods have no image with this figure in common")
    known = replace(claim, figure=mean.value, low=mean.low, high=mean.high, images=mean.images)
    shown = f"{mean.shown(digits, '+')} {claim.unit} over {mean.images} images, wanted {_wanted(claim)}"
    if mean.low is None or mean.high is None:
        return replace(known, why=f"{shown}; one image gives no interval")
    holds = mean.low >= claim.wanted and mean.low > 0
    reason = "" if holds else f"; {_reason(mean.low, mean.high, claim.wanted)}"
    return replace(known, holds=holds, why=shown + reason)


def _wanted(claim: Claim) -> str:
    return f"at least {claim.wanted:g}" if claim.wanted else "above 0"


def _reason(low: float, high: float, wanted: float) -> str:
    if high < wanted or high <= 0:
        return "all of the interval is below"
    return "the interval reaches below, so that these images do not show it"


def _unequal(one: Measured, other: Measured) -> str:
    """Return why two methods are not on equal terms: different steps of the same kind of optimisation."""
    if PTI in (one.method.kind, other.method.kind) or one.method.regime != other.method.regime:
        return ""
    if one.method.regime == "encoder" or one.steps == other.steps:
        return ""
    return f"not on equal terms: {one.name} takes {one.steps:g} steps, {other.name} {other.steps:g}"


def _said(slug: str) -> str:
    names = {"w": "W", "w_plus": "W+", "z_plus": "Z+", "pti": "PTI", "gaussian_prior": "the Gaussian prior"}
    return names.get(slug, "the hybrid" if slug == "hybrid" else slug)
