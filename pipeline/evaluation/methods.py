"""The methods of an evaluation as steps of runs that differ in two sections only; what each is in the thesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from infra.receipts import Receipt, ReceiptHead
from pipeline.data.units import Shard
from pipeline.errors import ConfigError
from pipeline.evaluate_settings import ComparedMethod, Evaluate
from pipeline.evaluation.editing import editing_step
from pipeline.evaluation.samples import Sampled, choose, sampled
from pipeline.plan.plan import Plan
from pipeline.plan.steps import MapStep, Steps
from stages.inversion.methods import Method as InversionMethod
from stages.inversion.methods.encode import Encode
from stages.inversion.methods.gaussian_prior import GaussianPrior
from stages.inversion.methods.hybrid import Hybrid
from stages.inversion.methods.optimise import Optimise
from stages.inversion.methods.pivotal import Pivotal
from stages.inversion.methods.sam_encoder import FromSamEncoder
from stages.inversion.methods.space import MAPS
from stages.invert import Invert
from stages.refine_maps import RefineMaps

Regime = Literal["optimisation", "encoder"]
SAM, SAM_ENCODER, GAUSSIAN_PRIOR, HYBRID, HYBRID_SAM, PTI, ENCODER = (
    "sam",
    "sam_encoder",
    "gaussian_prior",
    "hybrid",
    "hybrid_sam",
    "pti",
    "encoder",
)
SINGLE = "single:"
"""Before the space, the kind of a method that inverts whole images in one space."""
ABLATION = "without:"
"""Before the part that is switched off, the kind of an ablation."""


@dataclass(frozen=True)
class Compared:
    """A method whose addresses are known: its plan, its steps and its images."""

    name: str
    kind: str  # what it is in the thesis
    plan: Plan
    steps: Steps
    samples: Sampled
    editing: MapStep | None = None  # measures its edits; None if the run has none

    @property
    def regime(self) -> Regime:
        """Whether it optimises, or takes what an encoder gives."""
        return "encoder" if self.kind in (SAM_ENCODER, ENCODER) else "optimisation"

    @property
    def space(self) -> str | None:
        """The one space of whole images, None for other methods."""
        return self.kind.removeprefix(SINGLE) if self.kind.startswith(SINGLE) else None

    @property
    def title(self) -> str:
        """How codes are found, in words."""
        return self.steps.stage(Invert).method.title


def section_of(plan: Plan) -> Evaluate:
    """Return the section of a configuration; raise `ConfigError` if there is none."""
    if plan.config.evaluate is None:
        raise ConfigError(
            "evaluate: the configuration has no such section; add the methods to compare (docs/evaluation.md)"
        )
    return plan.config.evaluate


def plan_of(plan: Plan, method: ComparedMethod) -> Plan:
    """Return the plan of a run that inverts by a method."""
    return plan.varied(invert=method.invert, refine_maps=method.refine_maps)


def compared(plan: Plan, shards: Mapping[Shard, ReceiptHead], segmenter: Receipt) -> list[Compared]:
    """Return the methods of a configuration, in its order.

    Raises:
        RunError: there is no image to compare them on.
    """
    section = section_of(plan)
    names, known, found = choose(plan, shards, section.samples), dict[int, Sampled](), list[Compared]()
    refined = plan.map_steps(segmenter)[RefineMaps]
    for method in section.methods:
        count = min(method.samples or len(names), len(names))
        if count not in known:
            known[count] = sampled(plan, shards, frozenset(names[:count]))
        own = plan_of(plan, method)
        steps = own.map_steps(segmenter)
        editing = editing_step(plan, refined, steps)
        found.append(Compared(method.name, kind_of(method), own, steps, known[count], editing))
    return found


def kind_of(method: ComparedMethod) -> str:
    """Return what a method is in the thesis, judging by its settings."""
    kind = method.counts_as or _kind_of(method.invert.method)
    if method.ablates is None:
        return kind
    if kind != SAM:
        raise ConfigError(
            f"evaluate.methods: {method.name} ablates a part of SAM, and inverts by {method.invert.method.title}; "
            "remove ablates or the method"
        )
    return f"{ABLATION}{method.ablates}"


def _kind_of(method: InversionMethod) -> str:
    match method:
        case Optimise():
            return SAM if method.spaces == MAPS else f"{SINGLE}{method.spaces}"
        case Hybrid():
            return HYBRID_SAM if method.spaces == MAPS else HYBRID
        case GaussianPrior():
            return GAUSSIAN_PRIOR
        case Pivotal():
            return PTI
        case FromSamEncoder():
            return SAM_ENCODER
        case Encode():
            return ENCODER
