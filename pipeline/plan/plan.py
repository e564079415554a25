"""What a run would do: stages in order, their fingerprints, and the units that have no bundle yet. Touches nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from generators.generator import Generator
from infra.damage import Damages
from infra.receipts import Address, Receipt
from infra.stores.store import Store
from pipeline.config import RunConfig
from pipeline.data import inventory
from pipeline.data.fingerprint import fingerprint, settings_of
from pipeline.data.inventory import Listed, shard_of
from pipeline.data.shard_check import check_shards
from pipeline.data.stores import Stores
from pipeline.data.trained_segmenter import TrainedSegmenter, unit_in_use
from pipeline.data.units import Selection, Shard, Unit, cut, read_inventory
from pipeline.errors import ConfigError
from pipeline.plan.supervision_choice import Choice, choose, choose_for_good
from stages.base.stage import Stage
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember
from stages.images.labels import Label, check_label
from stages.inversion.sources import GeneratorSource, PerceptualSource
from stages.invert import Invert
from stages.maps.reduction import reduced_size
from stages.maps.region import Region
from stages.maps.spaces import chosen_spaces
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps


@dataclass(frozen=True)
class MapStep:
    """A map stage of this run: what it computes, its fingerprint, and the map stages that it reads."""

    stage: Stage
    fingerprint: str
    upstream: Mapping[str, str]
    selection: Selection
    segmenter: TrainedSegmenter | None = None  # that workers fetch before they load the stage


class Plan:
    """The steps of a run, derived from its configuration and from what is committed already."""

    def __init__(self, config: RunConfig, stores: Stores) -> None:
        self.config, self.stores, self.ledger = config, stores, stores.ledger
        self._choice: Choice | None = None

    @property
    def sources(self) -> tuple[Store, ...]:
        """The stores that shards are read from."""
        return self.stores.sources

    @functools.cached_property
    def generator(self) -> Generator:
        """The run's generator, on the CPU: its spaces and shapes decide the steps."""
        return self.config.generator.load(torch.device("cpu"))

    @functools.cached_property
    def generator_source(self) -> GeneratorSource:
        """Where workers load the generator from, with its digest: they take no other, and fetch none that is kept."""
        return self.config.generator.model_copy(update={"sha256": self.generator.digest})

    @property
    def region(self) -> Region:
        """The active region of the generator's canvas; raises `ConfigError` if it leaves it."""
        resolution = self.generator.resolution
        try:
            return (self.config.region or Region.whole(resolution)).inside(resolution)
        except ValueError as error:
            raise ConfigError(f"region: {error}") from error

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of this run, most editable first; raises `ConfigError` if the generator has not all of them."""
        try:
            return chosen_spaces(self.config.spaces, self.generator.spaces)
        except ValueError as error:
            raise ConfigError(f"spaces: {error}") from error

    @property
    def label(self) -> Label | None:
        """The class of images, or where they say it; raises `ConfigError` if the generator cannot have such classes."""
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
        """Which member of a sample is its picture."""
        return self.config.image_member

    @functools.cached_property
    def perceptual(self) -> PerceptualSource:
        """The perceptual distance, with the path of its weights."""
        return self.config.perceptual.resolved()

    def check_weights(self) -> None:
        """Raise `WeightsError` where weights are missing, damaged or of another network, before any work is done.

        Those that a segmenter was trained with are right: its fingerprint has their digests.
        """
        self.config.refine_maps.segmentation.check()
        if self.ledger.receipt(self.train_segmenter()) is None:
            self.config.train_segmenter.network.check()
            self.perceptual.check()

    @functools.cached_property
    def listed(self) -> list[Listed]:
        """The shards of the input as listed now."""
        return self.stores.shards()

    def inventories(self, noted: Damages | None = None) -> dict[Shard, Receipt]:
        """Return the inventory receipts of the listed shards, those that have one.

        Receipts that are damaged are added to `noted`, or raise `DamagedBundleError` where that is None.
        """
        wanted = {one.name for one in self.listed}
        done = self.ledger.units(inventory.STAGE, inventory.FINGERPRINT)
        found, damages = {}, noted or Damages()
        for name in sorted(wanted & done):
            with damages.noted():
                receipt = self.ledger.receipt(Address(inventory.STAGE, inventory.FINGERPRINT, name))
                if receipt is not None:
                    found[shard_of(receipt)] = receipt
        if noted is None:
            damages.check()
        return found

    def missing_inventories(self) -> list[Listed]:
        """Return the shards that were never read, or have changed since."""
        done = self.ledger.units(inventory.STAGE, inventory.FINGERPRINT)
        return [one for one in self.listed if one.name not in done]

    def check_input(self) -> None:
        """Return if what is new in the input may be shards; raises ConfigError if it is something else."""
        new = self.missing_inventories()
        check_shards(new, self.sources, others=len(new) < len(self.listed))

    @property
    def supervision(self) -> Selection:
        """The samples that get error maps."""
        settings = self.config.supervision
        if settings.number is None:
            return Selection(settings)
        if self._choice is None:
            self._choice = choose(self.ledger, settings, self.inventories(Damages()))
        return self._choice.selection

    def choose_supervision(self, shards: Mapping[Shard, Receipt]) -> None:
        """Choose for good which samples of new shards get error maps, now that their inventories are there."""
        if self.config.supervision.number is not None:
            self._choice = choose_for_good(self.ledger, self.config.supervision, shards)

    @property
    def everything(self) -> Selection:
        """All samples."""
        return Selection()

    def error_maps(self) -> MapStep:
        """Return the step that makes supervision."""
        settings, config = self.config.error_maps, self.config
        stage = ErrorMaps(
            generator=self.generator_source,
            perceptual=self.perceptual,
            image=self.image,
            region=self.region,
            spaces=self.spaces,
            label=self.label,
            map_side_px=config.maps.side_px,
            truth=config.truth,
            **{name: getattr(settings, name) for name in type(settings).model_fields},
        )
        extra = {"supervision": config.supervision.identity}
        return MapStep(stage, _fingerprint(stage, extra=extra), {}, self.supervision)

    def train_segmenter(self) -> Address:
        """Return the address of the segmenter. New data alone does not move it: `train_segmenter.edition` does.

        One that was trained on a part of the supervision is used while no complete one is there and it suffices.
        """
        stage = self.config.train_segmenter
        digest = fingerprint(
            stage.name, stage.version, settings_of(stage, stage.indifferent), [self.error_maps().fingerprint]
        )
        unit = unit_in_use(self.ledger.units(stage.name, digest), stage.minimum_share)
        return Address(stage.name, digest, unit)

    def predict_maps(self, segmenter: Receipt) -> MapStep:
        """Return the step that predicts maps with a trained segmenter."""
        config, trained = self.config, TrainedSegmenter.of(segmenter, self.config.folder)
        stage = PredictMaps(
            segmenter=trained.path,
            image=self.image,
            region=self.region,
            map_side_px=config.maps.side_px,
            truth=config.truth,
            batch=config.predict_maps.batch,
        )
        digest = _fingerprint(stage, known={trained.path: trained.sha256})
        return MapStep(stage, digest, {}, self.everything, trained)

    def refine_maps(self, predict_maps: MapStep) -> MapStep:
        """Return the step that assigns spaces. Changing the threshold reruns from here only."""
        settings = self.config.refine_maps
        stage = RefineMaps(
            spaces=self.spaces,
            image=self.image,
            region=self.region,
            map_side_px=self.config.maps.side_px,
            threshold=settings.threshold,
            segmentation=settings.segmentation,
            connected_components=settings.connected_components,
            batch=settings.batch,
        )
        return MapStep(
            stage, _fingerprint(stage, predict_maps), {"predict_maps": predict_maps.fingerprint}, self.everything
        )

    def invert(self, refine_maps: MapStep) -> MapStep:
        """Return the step that inverts."""
        settings = self.config.invert
        stage = Invert(
            generator=self.generator_source,
            perceptual=self.perceptual,
            image=self.image,
            region=self.region,
            spaces=self.spaces,
            label=self.label,
            **{name: getattr(settings, name) for name in type(settings).model_fields},
        )
        return MapStep(
            stage, _fingerprint(stage, refine_maps), {"refine_maps": refine_maps.fingerprint}, self.everything
        )

    def map_steps(self, segmenter: Receipt) -> tuple[MapStep, MapStep, MapStep]:
        """Return the steps behind a trained segmenter, in order."""
        predict = self.predict_maps(segmenter)
        refine = self.refine_maps(predict)
        return predict, refine, self.invert(refine)

    def units(self, shards: Mapping[Shard, Receipt], selection: Selection) -> list[Unit]:
        """Return the units of a stage, in the order of the shards."""
        units: list[Unit] = []
        damages = Damages()
        for shard, receipt in shards.items():
            chosen = shard.samples if selection.may_include(shard.name) else 0
            if selection.supervision is not None and selection.may_include(shard.name):
                with damages.noted():
                    listed = read_inventory(self.ledger, receipt)
                    chosen = sum(selection.includes(shard.name, sample.key) for sample in listed)
            units += cut(shard, chosen, self.config.unit_samples)
        damages.check()
        return units

    def remaining(self, step: MapStep, units: list[Unit]) -> list[Unit]:
        """Return the units of a step that have no bundle yet."""
        done = self.ledger.units(step.stage.name, step.fingerprint)
        return [unit for unit in units if unit.name not in done]


def _fingerprint(
    stage: Stage, *reads: MapStep, extra: Mapping[str, object] | None = None, known: Mapping[Path, str] | None = None
) -> str:
    settings = settings_of(stage, stage.indifferent)
    prints = [step.fingerprint for step in reads]
    return fingerprint(stage.name, stage.version, settings, prints, extra=extra, known=known)
