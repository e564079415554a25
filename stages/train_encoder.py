"""Train the SAM encoder on images whose pixels have been assigned spaces (thesis Sec. 3.3, Eq. 3.5 to 3.8).

The same function trains in one process and, data-parallel, in several: see `pipeline.training.on_ray`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypedDict

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from generators.generator import Generator
from generators.latents import Codes
from generators.prior import cached_prior
from generators.source import GeneratorSource
from stages.base.errors import SettingError, StageError
from stages.base.progress import report_progress
from stages.base.stage import GraphStage, sample_seed
from stages.encoder.checkpoint import save_encoder
from stages.encoder.examples import Batch, Example, ExampleSource, as_batch, flipped
from stages.encoder.fitting import codes_term, masked, shown
from stages.encoder.network import EncoderNetwork, SamEncoder, new_encoder
from stages.encoder.stream import Position, Stream, positions_of
from stages.images.image_member import ImageMember
from stages.inversion.viewer import MAX_PSNR_DB
from stages.maps.region import Region, crop, place, psnr_db
from stages.objective.loss import loss_of
from stages.objective.objective import TERMS, Objective, prepare_target
from stages.objective.precision import Computed, lowered
from stages.perceptual.source import PerceptualSource
from stages.training.rates import set_rate, warm_cosine
from stages.training.states import States, identity_of, packed, resumed
from stages.training.workers import Workers

Wrap = Callable[[nn.Module], nn.Module]

LARGEST_GRADIENT = 1.0  # norm over all parameters; larger ones are scaled down
BETAS = (0.9, 0.99)


class TrainEncoder(GraphStage):
    """Train one encoder per space, all together, to give codes with a small loss; the result is one checkpoint."""

    name: ClassVar[str] = "train_encoder"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("refine_maps",)
    indifferent: ClassVar[frozenset[str]] = frozenset({"checkpoint_every_s", "codes"})

    generator: GeneratorSource
    perceptual: PerceptualSource
    image: ImageMember = ImageMember()
    region: Region
    spaces: tuple[str, ...]
    network: EncoderNetwork = EncoderNetwork()
    objective: Objective = Objective()
    """Weights of the loss (Eq. 3.8); give the same as to `invert`, or the two regimes minimise different losses."""
    samples: Literal["supervision", "all"] = "supervision"
    """Images to learn from: those of the supervision, 10,000 as in the thesis, or all. Never those held out for
    evaluation."""
    codes: str | None = None
    """Address of the store of an earlier run, such as last night's: its published codes are extra supervision for the
    images that it inverted. Another address alone does not train again; `edition` does."""
    lambda_codes: NonNegativeFloat = 0.0  # weight of the squared difference from those codes; 0 uses none
    training_steps: PositiveInt = 100_000  # steps of the optimiser
    batch: PositiveInt = 8  # images per step of all workers together
    learning_rate: PositiveFloat = 3e-4  # largest learning rate of Adam, which warms up and falls as half a cosine
    flip: bool = True  # mirror left and right at random
    validation_share: float = Field(0.02, ge=0, lt=1)  # share held out, by a hash of the key; stays as data grows
    validation_samples: PositiveInt = 200  # held-out images that a point of the curve is measured on, at most
    points: PositiveInt = 20  # of the learning curve
    precision: Computed = "fp32"  # of the networks during training, on hardware made for it
    seed: NonNegativeInt = 0  # seed of initialisation, order and mirroring
    edition: PositiveInt = 1
    """Raise it to train again on the present images and codes. New data alone does not."""
    shuffle_window: PositiveInt = 256  # samples, still encoded, that are mixed
    checkpoint_every_s: PositiveFloat = 60.0  # seconds between states to resume from: the most that a crash costs

    @model_validator(mode="after")
    def _codes_have_a_weight(self) -> Self:
        if (self.codes is None) is not (self.lambda_codes == 0):
            raise ValueError(
                f"codes ({self.codes}) and lambda_codes ({self.lambda_codes:g}) belong together: set both, or neither"
            )
        return self

    def check(self, generator: Generator, workers: int) -> None:
        """Raise `SettingError` if the network does not fit the generator, or workers cannot share a batch equally."""
        if self.batch % workers:
            raise SettingError(
                f"train_encoder.batch is {self.batch}, which {workers} workers cannot share equally: make it a "
                "multiple of compute.training_workers"
            )
        try:
            with torch.device("meta"):
                new_encoder(self.network, generator, self.spaces, torch.empty(generator.w_dim), self.seed)
        except ValueError as error:
            raise SettingError(f"train_encoder.{error}") from error

    def holds_out(self, key: str) -> bool:
        """Return whether the example of this key is held out for validation."""
        return sample_seed(self.seed, f"held out/{key}") / 2**56 < self.validation_share


class Point(TypedDict):
    """One point of the learning curve: means over the steps before it, and over held-out images."""

    step: int  # steps taken
    loss: float  # Eq. 3.8, with the term of known codes
    terms: dict[str, float]  # its weighted parts
    val_loss: float | None  # of Eq. 3.8; None without held-out images
    val_psnr_db: float | None


@dataclass(frozen=True)
class TrainedEncoder:
    """A trained encoder, as the bytes of a checkpoint for `load_sam_encoder`, and the course of its training."""

    checkpoint: bytes
    curve: list[Point]
    rejected: Mapping[str, Mapping[str, str]]  # by unit and key: unfit examples, with the reason


def train_encoder(
    stage: TrainEncoder,
    source: ExampleSource,
    device: torch.device,
    *,
    states: States | None = None,
    workers: Workers = Workers(),  # noqa: B008  # immutable
    wrap: Wrap = lambda module: module,
) -> TrainedEncoder:
    """Return the encoder whose codes have a small loss on the examples (Eq. 3.8), after all steps.

    The result depends on the recipe, the examples and the number of workers, not on when training was interrupted.
    Memory does not grow with the number of examples.

    Args:
        stage: the recipe.
        source: the examples; each worker reads its own units.
        device: where to train.
        states: keeps the state that an interrupted training resumes from; it then ends as if never interrupted.
        workers: which worker this is, of how many.
        wrap: makes the network data-parallel.

    Raises:
        StageError: there are no examples, the loss is not finite, the network or the batch does not suit generator and
            workers, or the state belongs to another training.
        ValueError: the region is not the generator's.
    """
    changeable: dict[str, Any] = dict.fromkeys(stage.indifferent, True)
    changeable |= {"generator": True, "perceptual": True}  # paths differ between machines; fingerprints have digests
    with Stream(source, stage.holds_out, stage.shuffle_window, stage.seed, workers) as stream:
        training = _Training(stage, stream, device, wrap, states)
        digests = training.generator.digest, training.perceptual.digest
        training.identity = identity_of(stage, changeable, *digests, list(source.units), source.identity)
        with resumed(states, workers, training.identity, device, stage.name) as state:
            if state is not None:
                training.restore(state)
            training.run()
        return training.result()


# ---- one training


class _Fitted(nn.Module):
    """The encoder in training; data-parallel wrappers follow its forward."""

    def __init__(self, encoder: SamEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image_N3HW: Tensor, map_NLHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        codes: Codes = self.encoder(image_N3HW, map_NLHW)
        return codes.w_plus, dict(codes.deltas)


class _Training:
    """The state of one training on one worker."""

    identity = ""

    def __init__(
        self, stage: TrainEncoder, stream: Stream, device: torch.device, wrap: Wrap, states: States | None
    ) -> None:
        self.stage, self.stream, self.device, self.states = stage, stream, device, states
        self.workers = stream.workers
        self.generator, self.perceptual = stage.generator.load(device), stage.perceptual.load(device)
        stage.check(self.generator, self.workers.world)
        self.region = stage.region.inside(self.generator.resolution)
        objective = stage.objective
        prior = cached_prior(self.generator, published_mean=objective.published_mean, shrinkage=objective.shrinkage).to(
            device
        )
        parts = (self.generator, self.perceptual, prior, objective, self.region)
        self.loss_of_codes = loss_of(*parts, stage.precision)
        encoder = new_encoder(stage.network, self.generator, stage.spaces, prior.mean_w.cpu(), stage.seed)
        self.encoder = encoder.to(device)
        self.alone = _Fitted(self.encoder)  # for validation, where workers have different numbers of batches
        self.network = wrap(self.alone)
        rate = stage.learning_rate
        groups = [{"params": list(self.encoder.parameters()), "lr": rate, "largest_lr": rate}]
        self.optimiser = torch.optim.Adam(groups, betas=BETAS)
        self.size = stage.batch // self.workers.world
        self.step, self.position = 0, Position()
        self.curve: list[Point] = []
        self._forget()

    def run(self) -> None:
        """Train from the current step to the last."""
        batches = self.stream.batches(self.size, self.position)
        every = max(1, -(-self.stage.training_steps // self.stage.points))
        while self.step < self.stage.training_steps:
            examples, self.position = next(batches)
            self.learn(examples)
            self.step += 1
            report_progress(
                self.step, self.stage.training_steps, "steps", f"SAM encoder, {len(self.curve)} points of its curve"
            )
            if self.step % every == 0 or self.step == self.stage.training_steps:
                self.note()
            self._keep_state()

    def learn(self, examples: Sequence[Example]) -> None:
        """Take one step on this worker's part of a batch."""
        seed = sample_seed(self.stage.seed, f"step/{self.step}/{self.workers.rank}")
        draws = torch.Generator().manual_seed(seed)
        batch = as_batch(examples, self.device)
        if self.stage.flip:
            batch = flipped(batch, (torch.rand(len(examples), generator=draws) < 0.5).to(self.device))
        set_rate(self.optimiser, warm_cosine(self.step, self.stage.training_steps))
        terms_TN = self._terms(batch)
        self.optimiser.zero_grad(set_to_none=True)
        terms_TN.sum(dim=0).mean().backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.sums_T += terms_TN.detach().mean(dim=1)
        self.summed += 1

    def note(self) -> None:
        """Add a point to the curve; raise `StageError` if the loss is not finite."""
        mean_T = self.workers.sum(self.sums_T.clone()) / (self.summed * self.workers.world)
        terms = dict(zip((*TERMS, "codes"), mean_T.tolist(), strict=True))
        loss = float(mean_T.sum())
        if not math.isfinite(loss):
            raise StageError(
                f"train_encoder diverged before step {self.step} (loss {loss}): lower learning_rate, now "
                f"{self.stage.learning_rate}"
            )
        val_loss, val_psnr_db = self._judged()
        self.curve.append(Point(step=self.step, loss=loss, terms=terms, val_loss=val_loss, val_psnr_db=val_psnr_db))
        self._forget()

    def result(self) -> TrainedEncoder:
        """Return the encoder of the last step, as the first worker has it."""
        rejected: dict[str, dict[str, str]] = {}
        for unit, reasons in self.workers.gathered(list(self.stream.rejected.items())):
            rejected.setdefault(unit, {}).update(reasons)
        about = f"trained for {self.step} steps of {self.stage.batch} images; edition {self.stage.edition}"
        return TrainedEncoder(save_encoder(self.encoder, about), self.curve, rejected)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.encoder.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.curve = state["step"], state["curve"]
        self.position = positions_of(state["positions"], self.workers)
        self.stream.rejected.update(state["rejected"])
        self.summed = state["summed"]
        if self.workers.rank == 0:  # sums of all workers are added up when they are used
            self.sums_T += torch.tensor(state["sums"], dtype=torch.float64, device=self.device)

    def _terms(self, batch: Batch) -> Tensor:
        """Return the terms of each image's loss, those of Eq. 3.8 and that of known codes, `[T + 1, N]` float64."""
        codes = self._codes(self.network, batch)
        target = prepare_target(batch.image_N3HW, self.perceptual, self.stage.objective)
        terms_TN = self.loss_of_codes(codes, target)
        known_N = terms_TN.new_zeros(terms_TN.shape[1])
        if batch.known is not None:
            known_N = self.stage.lambda_codes * codes_term(codes, batch.known).double()
        return torch.cat([terms_TN, known_N[None]])

    def _codes(self, network: nn.Module, batch: Batch) -> Codes:
        resolution, spaces = self.generator.resolution, self.encoder.spaces
        seen = shown(batch.image_N3HW, batch.assignment_NHW, len(spaces), self.region, resolution)
        with lowered(self.stage.precision, self.device):
            w_plus, deltas = network(*seen)
        canvas_NHW = place(batch.assignment_NHW, self.region, resolution)
        return masked(Codes(w_plus, deltas), canvas_NHW, spaces, self.generator.feature_shapes)

    @torch.no_grad()
    def _judged(self) -> tuple[float | None, float | None]:
        """Return mean loss (Eq. 3.8) and mean PSNR of the held-out images of all workers, None without any."""
        sums_3 = torch.zeros(3, dtype=torch.float64, device=self.device)
        most = -(-self.stage.validation_samples // self.workers.world)
        for examples in self.stream.held_out(self.size, most) if self.stage.validation_share else ():
            batch = as_batch(examples, self.device)
            codes = self._codes(self.alone, batch)
            target = prepare_target(batch.image_N3HW, self.perceptual, self.stage.objective)
            loss_N = self.loss_of_codes(codes, target).sum(dim=0)
            picture = crop(self.generator.synthesize(codes.w_plus, codes.deltas, codes.masks), self.region)
            psnr_N = psnr_db(picture, batch.image_N3HW).clamp(max=MAX_PSNR_DB)
            sums_3 += torch.stack([torch.ones_like(loss_N), loss_N, psnr_N]).sum(dim=1)
        count, loss, psnr = self.workers.sum(sums_3).tolist()
        return (loss / count, psnr / count) if count else (None, None)

    def _keep_state(self) -> None:
        """Keep everything that training needs to continue, if it is time."""
        if self.states is None or not self.workers.first_says(self.states.due(), self.device):
            return
        state = {
            "identity": self.identity,
            "step": self.step,
            "curve": self.curve,
            "positions": [list(position) for position in self.workers.gathered([tuple(self.position)])],
            "rejected": dict(self.workers.gathered(list(self.stream.rejected.items()))),
            "summed": self.summed,
            "sums": self.workers.sum(self.sums_T.clone()).tolist(),
            "network": self.encoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.workers.rank == 0:
            self.states.keep(packed(state))

    def _forget(self) -> None:
        """Begin the sums of the curve's next point."""
        self.sums_T = torch.zeros(len(TERMS) + 1, dtype=torch.float64, device=self.device)
        self.summed = 0
