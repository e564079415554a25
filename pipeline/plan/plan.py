"""The plan of a run: stages in order, their fingerprints, and the units that have no bundle yet. It changes nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch

from generators.generator import Generator
from generators.source import GeneratorSource
from infra.damage import Damages
from infra.receipts import Address, Ledger, Receipt, ReceiptHead
from infra.stores.storage import open_store
from infra.stores.store import Store
from pipeline.config import RunConfig
from pipeline.data import inventory
from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.data.inventory import ListedShard, shard_of
from pipeline.data.shard_check import check_shards
from pipeline.data.start_codes import StartCodes, published_inversions
from pipeline.data.stores import Stores
from pipeline.data.trained_networks import ENCODER_UNIT, SEGMENTER_UNIT, TrainedSegmenter, unit_in_use
from pipeline.data.units import Selection, Shard, Unit, cut, read_inventory
from pipeline.errors import ConfigError
from pipeline.plan.graph import GRAPH, maps_samples
from pipeline.plan.steps import MapStep, Steps
from pipeline.plan.supervision_choice import Choice, choose, choose_for_good
from pipeline.stage_settings import AnyGraphStage
from stages.base.stage import GraphStage, Stage
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.images.labels import Label, check_label
from stages.inversion.starts import Bundle
from stages.invert import Invert
from stages.maps.reduction import reduced_size
from stages.maps.region import Region
from stages.maps.spaces import chosen_spaces
from stages.perceptual.source import PerceptualSource
from stages.segmenter.choice import Published
from stages.train_encoder import TrainEncoder
from stages.train_segmenter import TrainSegmenter

__all__ = ["MapStep", "Plan"]

Facts = Mapping[str, Callable[[], object]]


class Plan:
    """The steps of a run, derived from its configuration and from existing commits."""

    def __init__(self, config: RunConfig, stores: Stores) -> None:
        self.config, self.stores, self.ledger = config, stores, stores.ledger
        self._choice: Choice | None = None
        self._starts: dict[Bundle, Bundle] = {}
        self._counts: dict[tuple[Address, str, Hashable], int] = {}

    def varied(self, **sections: object) -> Plan:
        """Return the plan of a run with other sections of this configuration, from the same generator and input."""
        plan = copy.copy(self)
        plan.config = self.config.model_copy(update=sections)
        return plan

    @property
    def sources(self) -> tuple[Store, ...]:
        """The stores of the shards."""
        return self.stores.sources

    @functools.cached_property
    def generator(self) -> Generator:
        """The run's generator, on the CPU: its spaces and shapes decide the steps."""
        return self.config.generator.load(torch.device("cpu"))

    @functools.cached_property
    def generator_source(self) -> GeneratorSource:
        """The source of the generator for workers, with its digest: they use no other, and fetch it only once."""
        source: GeneratorSource = self.config.generator.model_copy(update={"sha256": self.generator.digest})
        return source

    @property
    def region(self) -> Region:
        """The active region of the generator's canvas; raise `ConfigError` if it leaves the canvas."""
        resolution = self.generator.resolution
        try:
            return (self.config.region or Region.whole(resolution)).inside(resolution)
        except ValueError as error:
            raise ConfigError(f"region: {error}") from error

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of this run, most editable first; raise `ConfigError` if the generator lacks one."""
        try:
            return chosen_spaces(self.config.spaces, self.generator.spaces)
        except ValueError as error:
            raise ConfigError(f"spaces: {error}") from error

    @property
    def label(self) -> Label | None:
        """The class of images, or where they give it; raise `ConfigError` if the generator cannot have such classes."""
        try:
            check_label(self.config.label, self.generator.label_dim)
        except ValueError as error:
            raise ConfigError(f"label: {error}") from error
        return self.config.label

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of maps."""
        return reduced_size(self.region.size, self.config.maps.side_px)

    @property
    def image(self) -> ImageMember:
        """The member of a sample that is its picture."""
        return self.config.image_member

    @functools.cached_property
    def perceptual(self) -> PerceptualSource:
        """The perceptual distance, with the path of its weights."""
        return self.config.perceptual.resolved()

    def check_weights(self) -> None:
        """Raise `WeightsError` if weights are missing, damaged or of another network, before any work is done.

        Those of a trained segmenter are right: its fingerprint has their digests.
        """
        self.config.refine_maps.segmentation.check()
        for start in (self.config.error_maps.start, self.config.invert.start):
            start.check()
            start.check_fits(self.generator, self.spaces)
        self.config.invert.method.check()
        self.config.invert.method.check_fits(self.generator, self.spaces)
        self._check_own_encoder()
        for stage in self.stages:
            if maps_samples(stage) and stage.name in GRAPH.optional:
                self.stage(stage).check(self.generator)
        if TrainEncoder in self.stages:
            self.stage(TrainEncoder).check(self.generator, self.config.compute.training_workers)
        if self.ledger.receipt(self.train_segmenter()) is None:
            if isinstance(self.config.segmenter, Published):
                self.config.segmenter.load(self.spaces)
            else:
                self.config.train_segmenter.network.check()
            self.perceptual.check()

    @functools.cached_property
    def listed(self) -> list[ListedShard]:
        """The shards of the input as listed now."""
        return self.stores.shards()

    def inventories(self, noted: Damages | None = None) -> dict[Shard, ReceiptHead]:
        """Return the inventory receipts of the listed shards that have one.

        Damaged receipts are added to `noted`, or raise `DamagedBundleError` if that is None.
        """
        wanted = {one.name for one in self.listed}
        done = self.ledger.units(inventory.STAGE, inventory.FINGERPRINT)
        addresses = (Address(inventory.STAGE, inventory.FINGERPRINT, name) for name in sorted(wanted & done))
        found, damages = dict[Shard, ReceiptHead](), noted or Damages()
        for head in self.ledger.heads_at(addresses, damages.found):
            with damages.noted():
                found |= {shard_of(head): head} if head is not None else {}
        if noted is None:
            damages.check()
        return found

    def missing_inventories(self) -> list[ListedShard]:
        """Return the shards that were never read, or have changed since."""
        done = self.ledger.units(inventory.STAGE, inventory.FINGERPRINT)
        return [one for one in self.listed if one.name not in done]

    def check_input(self) -> None:
        """Return if what is new in the input may be shards; raise ConfigError if it is something else."""
        new = self.missing_inventories()
        check_shards(new, self.sources, others=len(new) < len(self.listed))

    @property
    def supervision(self) -> Selection:
        """The samples that get error maps: none if a published segmenter is used."""
        settings = self.config.supervision
        if isinstance(self.config.segmenter, Published):
            return Selection(settings, below={}, left=0)
        if settings.number is None:
            return Selection(settings)
        if self._choice is None:
            self._choice = choose(self.ledger, settings, self.inventories(Damages()))
        return self._choice.selection

    def choose_supervision(self, shards: Mapping[Shard, ReceiptHead]) -> None:
        """Choose permanently which samples of new shards get error maps, now that their inventories exist."""
        if self.config.supervision.number is not None and not isinstance(self.config.segmenter, Published):
            self._choice = choose_for_good(self.ledger, self.config.supervision, shards)

    @property
    def everything(self) -> Selection:
        """All samples."""
        return Selection()

    @property
    def stages(self) -> tuple[type[GraphStage], ...]:
        """The stages that this run computes, in order."""
        return GRAPH.computed(self.config)

    @property
    def facts(self) -> Facts:
        """The values that the run gives to a stage, by the names of its fields."""
        config = self.config
        return {
            "generator": lambda: self.generator_source,
            "perceptual": lambda: self.perceptual,
            "image": lambda: self.image,
            "region": lambda: self.region,
            "spaces": lambda: self.spaces,
            "label": lambda: self.label,
            "map_side_px": lambda: config.maps.side_px,
            "truth": lambda: config.truth,
            "bundles": lambda: config.bundles,
        }

    def stage(self, stage: type[AnyGraphStage], **given: object) -> AnyGraphStage:
        """Return a stage as this run configures it: its section, what is `given`, and what it is given by the run."""
        section = getattr(self.config, stage.name)
        values = {name: getattr(section, name) for name in type(section).model_fields} | given
        if isinstance(start := values.get("start"), Bundle):
            values["start"] = self._pinned(start)
        facts = {name: fact() for name, fact in self.facts.items() if name in stage.model_fields.keys() - values.keys()}
        return stage(**values, **facts)

    def start_codes(self, stage: Stage) -> StartCodes | None:
        """Return the earlier inversions in a store from which a stage's inversions start, None if it needs none."""
        return StartCodes.from_start(getattr(stage, "start", None), self.config.storage.output)

    def _pinned(self, start: Bundle) -> Bundle:
        """Return a start with the fingerprint of its inversions, those that are published unless it names some.

        Raises:
            ConfigError: the store is that of the run, whose published inversions will be others after it.
            RunError: nothing is published there.
        """
        if start.store is None or start.inversions is not None:
            return start
        if start in self._starts:
            return self._starts[start]
        ledger = Ledger(open_store(str(start.store), self.config.storage.output))
        if ledger.store.url == self.ledger.store.url:
            raise ConfigError(
                "invert.start: the store is this run's own, and what is published there changes with the run; name the "
                "inversions to start from (invert.start.inversions, as `invertmill status` prints their fingerprint)"
            )
        pinned = {"store": ledger.store.url, "inversions": published_inversions(ledger)}
        self._starts[start] = start.model_copy(update=pinned)
        return self._starts[start]

    def selection(self, stage: type[Stage]) -> Selection:
        """Return the samples that a stage processes."""
        return self.supervision if stage.supervision_only else self.everything

    def error_maps(self) -> MapStep:
        """Return the step that makes supervision."""
        return self._step(ErrorMaps, {})

    def train_segmenter(self) -> Address:
        """Return the address of the segmenter. New data alone does not move it: `train_segmenter.edition` does.

        A segmenter trained on a part of the supervision is used while there is no complete one and it suffices. A
        published one is addressed by its digest.
        """
        stage = self.config.train_segmenter
        if isinstance(self.config.segmenter, Published):
            settings = {"published": self.config.segmenter.weights, "spaces": self.spaces}
            return Address(stage.name, fingerprint(stage.name, stage.version, settings), SEGMENTER_UNIT)
        digest = self._fingerprint(stage, {ErrorMaps.name: self.error_maps().fingerprint})
        unit = unit_in_use(self.ledger.units(stage.name, digest), stage.minimum_share)
        return Address(stage.name, digest, unit)

    def train_encoder(self, steps: Steps) -> Address:
        """Return the address of the encoder, given the steps over all samples; `TrainEncoder` must be configured.

        New data alone does not move it: `train_encoder.edition` does.
        """
        stage = self.stage(TrainEncoder)
        upstream = {read.name: steps[read].fingerprint for read in GRAPH.upstream(TrainEncoder)}
        chosen = {"supervision": self.config.supervision.identity}
        return Address(stage.name, self._fingerprint(stage, upstream, extra=chosen), ENCODER_UNIT)

    def trainings(self, segmenter: Receipt | None) -> dict[str, Address | None]:
        """Return the addresses of all trainings of this run by stage; None if it depends on a segmenter to be trained.

        Args:
            segmenter: the trained one, None if there is none yet.
        """
        found: dict[str, Address | None] = {TrainSegmenter.name: self.train_segmenter()}
        if TrainEncoder in self.stages:
            found[TrainEncoder.name] = None if segmenter is None else self.train_encoder(self.map_steps(segmenter))
        return found

    def map_steps(self, segmenter: Receipt) -> Steps:
        """Return the steps over all samples, in order, with the segmenter that was trained."""
        trained, known = TrainedSegmenter(segmenter), dict[str, str]()
        steps = list[MapStep]()
        for stage in self.stages:
            if maps_samples(stage) and not stage.supervision_only:
                encoder = self._own_encoder(stage, steps)
                steps.append(self._step(stage, known, trained, encoder))
                known[stage.name] = steps[-1].fingerprint
        return Steps(steps)

    def _own_encoder(self, stage: type[Stage], steps: Iterable[MapStep]) -> Address | None:
        """Return the address of the run's own encoder if a stage uses it; raise `ConfigError` if none is trained."""
        if stage is not Invert or not self._uses_own_encoder:
            return None
        self._check_own_encoder()
        return self.train_encoder(Steps(steps))

    @property
    def _uses_own_encoder(self) -> bool:
        return self.config.invert.method.needs_training or self.config.invert.start.needs_training

    def _check_own_encoder(self) -> None:
        if self._uses_own_encoder and self.config.train_encoder is None:
            raise ConfigError(
                "invert: a SAM encoder without a checkpoint is the encoder of this run, and the configuration has no "
                "train_encoder: add that section, or name a checkpoint"
            )

    def steps(self, segmenter: Receipt | None) -> Steps:
        """Return all steps that are known, in order: before a segmenter is trained, those that need none."""
        return Steps([self.error_maps(), *(self.map_steps(segmenter) if segmenter is not None else ())])

    def _step(
        self,
        stage: type[Stage],
        fingerprints: Mapping[str, str],
        trained: TrainedSegmenter | None = None,
        encoder: Address | None = None,
    ) -> MapStep:
        """Return the step of a stage; those of the stages that it reads have these fingerprints."""
        trained = trained if "segmenter" in stage.model_fields else None
        configured = self.stage(stage, **({"segmenter": trained.path} if trained is not None else {}))
        upstream = {read.name: fingerprints[read.name] for read in GRAPH.upstream(stage)}
        extra = None if encoder is None else {"encoder": encoder.fingerprint}
        digest = self._fingerprint(configured, upstream, trained, extra)
        return MapStep(configured, digest, upstream, self.selection(stage), trained, encoder)

    def _fingerprint(
        self,
        stage: GraphStage,
        upstream: Mapping[str, str],
        trained: TrainedSegmenter | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the fingerprint of a stage. A trained segmenter counts by the digest of its checkpoint."""
        return fingerprint(
            stage.name,
            stage.version,
            settings_of(stage, stage.indifferent) | _removed(stage),
            list(upstream.values()),
            extra={"supervision": self.config.supervision.identity} if _of_supervision(stage) else extra,
            known={trained.path: trained.sha256} if trained is not None else None,
        )

    def units(self, shards: Mapping[Shard, ReceiptHead], selection: Selection) -> list[Unit]:
        """Return the units of a stage, in the order of the shards."""
        units: list[Unit] = []
        damages = Damages()
        for shard, receipt in shards.items():
            with damages.noted():
                units += cut(shard, self._chosen_of(shard, receipt, selection), self.config.unit_samples)
        damages.check()
        return units

    def _chosen_of(self, shard: Shard, receipt: ReceiptHead, selection: Selection) -> int:
        """Return how many samples of a shard a stage processes; this reads an inventory once."""
        if selection.supervision is None or not selection.may_include(shard.name):
            return shard.samples if selection.may_include(shard.name) else 0
        key = (receipt.address, receipt.attempt, selection.of_shard(shard.name))
        if key not in self._counts:
            listed = read_inventory(self.ledger, receipt)
            self._counts[key] = sum(selection.includes(shard.name, sample.key) for sample in listed)
        return self._counts[key]

    def remaining(self, step: MapStep, units: list[Unit]) -> list[Unit]:
        """Return the units of a step that have no bundle yet."""
        done = self.ledger.units(step.stage.name, step.fingerprint)
        return [unit for unit in units if unit.name not in done]


def _removed(stage: GraphStage) -> dict[str, Any]:
    return dict(stage.formerly) if isinstance(stage, Stage) else {}


def _of_supervision(stage: GraphStage) -> bool:
    return isinstance(stage, Stage) and stage.supervision_only
