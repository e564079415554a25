"""A run's configuration: one YAML file, validated whole before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from generators.source import GeneratorSource
from infra.addresses.addresses import anchored
from infra.stores.storage import AnyOptions, S3Options
from pipeline.config_keys import literals, models_in, nearest
from pipeline.errors import ConfigError
from pipeline.stage_settings import Settings, defaults
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember, is_picture
from stages.images.labels import Label
from stages.images.members import Member
from stages.inversion.methods import Method
from stages.inversion.starts import Start
from stages.invert import Invert
from stages.maps.region import Region
from stages.perceptual.source import PerceptualSource
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.segmentation import Labels, Segmentation
from stages.segmenter.choice import SegmenterChoice, TrainedHere
from stages.trade_off import TradeOff
from stages.train_segmenter import TrainSegmenter

Share = Annotated[float, Field(ge=0.0, le=1.0)]
SUPERVISED = 10_000
"""Samples that get error maps unless a run says otherwise, as in the thesis."""


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Supervision(Section):
    """Which samples get error maps. Chosen by hash of the key, so the choice stays the same when data grows."""

    shards: str = "*"  # of which shards, as a glob on their names
    samples: PositiveInt | None = None
    """So many of their samples, those held out included; as many as the thesis has, 10,000, unless `share` is set. New
    data adds samples while there are fewer, and changes none that were chosen."""
    share: Share | None = None  # this share of their samples instead, of new data too
    held_out_shards: str | None = None  # of these shards: error maps, for evaluation, but never trained on
    held_out_share: Share = 0.1  # of the chosen samples, where no shards are held out

    @model_validator(mode="after")
    def _samples_or_share(self) -> Self:
        if self.samples is not None and self.share is not None:
            raise ValueError(
                f"samples ({self.samples}) and share ({self.share:g}) both say how many samples get error maps: "
                "keep one of them"
            )
        return self

    @property
    def number(self) -> int | None:
        """How many samples are chosen; None where a share of them is."""
        return None if self.share is not None else self.samples or SUPERVISED

    @property
    def identity(self) -> dict[str, object]:
        """What the choice depends on, for fingerprints."""
        many = {"samples": self.number} if self.share is None else {"share": self.share}
        rest = {"held_out_shards": self.held_out_shards, "held_out_share": self.held_out_share}
        return {"shards": self.shards, **many, **rest}


class MapSettings(Section):
    """What error maps and predicted maps have in common."""

    side_px: PositiveInt | None = 256
    """Longest side at which maps are made, predicted and compared with tau; null is the region's own. A distance's
    numbers change with its size, and the published tau belongs to 256. Maps are never larger than the region."""


class Compute(Section):
    """What the work runs on. Nothing here changes a result."""

    address: str | None = None  # of a Ray cluster; None starts Ray on this machine
    workers: PositiveInt | None = None  # actors a stage; None is one a GPU, or one a core where there is none
    gpus_per_worker: float | None = None  # None is 1 where Ray knows a GPU, else 0
    cpus_per_worker: PositiveInt = 1  # cores that a worker is given, and threads it computes with
    training_workers: PositiveInt = 1  # more than one train data-parallel under Ray Train
    unit_deadline_s: PositiveFloat = 3600.0  # a unit (not a training) that takes longer is taken from its worker
    open_deadline_s: PositiveFloat = 1800.0  # for a worker to start and load its networks, before another one is tried
    attempts: PositiveInt = 3  # of a unit, before it is given up and reported
    lost_workers: NonNegativeInt = 100  # workers lost with their machine, before the run stops


class Storage(Section):
    """How object storage is reached. Credentials come from boto3's usual chain, never from here."""

    input: AnyOptions = S3Options()
    output: AnyOptions = S3Options()


class RunConfig(Section):
    """Everything one run depends on."""

    input: str | Annotated[tuple[str, ...], Field(min_length=1)]  # shards: a folder's or bucket's glob, or several
    output: str  # folder or s3://bucket/prefix; bundles, receipts and the index
    folder: Path  # local: report.html, summary.json
    seed: int = 0  # of every random draw, with the key of its sample
    generator: GeneratorSource
    perceptual: PerceptualSource = PerceptualSource()
    region: Region | None = None  # active part of the generator's canvas; None is all of it
    spaces: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Spaces that images are inverted in, most editable first, as [W+, F4, F6]; None is all of the generator's."""
    label: Label | None = None
    """Class of every image, for a conditional generator: a number for all, or where samples say it, as {member: cls} or
    {member: json, field: class}. Inversions then start at that class; None starts at the mean of all."""
    maps: MapSettings = MapSettings()
    image: Member | None = None  # member of a sample that is its picture, as image.jpg; None tells it by its extension
    input_check: Literal["listing", "digest"] = "listing"
    """How a shard that changed is told: by its size and ETag or modification time, or by reading it in every run."""
    truth: Member | None = None  # member of a sample that masks a known occluder, if the shards have one
    unit_samples: PositiveInt = 64  # consecutive samples an actor takes and commits at a time
    supervision: Supervision = Supervision()
    error_maps: Settings[ErrorMaps] = defaults(ErrorMaps)  # how supervision is made
    segmenter: SegmenterChoice = TrainedHere()  # trained on the supervision, or a published checkpoint
    train_segmenter: Settings[TrainSegmenter] = defaults(TrainSegmenter)  # how the segmenter is trained
    predict_maps: Settings[PredictMaps] = defaults(PredictMaps)  # how maps are predicted
    refine_maps: Settings[RefineMaps] = defaults(RefineMaps)  # how maps become an assignment of spaces to segments
    invert: Settings[Invert] = defaults(Invert)  # how images are inverted in the spaces assigned
    trade_off: Settings[TradeOff] = defaults(TradeOff)
    """How `invertmill tune --invert` measures what editability costs; objective and schedule are those of `invert`."""
    compute: Compute = Compute()
    storage: Storage = Storage()

    @field_validator("truth")
    @classmethod
    def _truth_is_not_the_picture(cls, truth: str | None, info: ValidationInfo) -> str | None:
        if truth is not None and truth == info.data.get("image"):
            raise ValueError(f"{truth!r} is the picture already (image): name the member that masks its occluder")
        return truth

    @property
    def image_member(self) -> ImageMember:
        """Which member of a sample is its picture: as configured, or none of those configured to be something else.

        Labels count under their usual name whatever the segmentation is, so that taking another keeps the error maps.
        """
        if self.image is not None:
            return ImageMember(member=self.image)
        labels = self.refine_maps.segmentation
        others = {self.truth, Labels().member, labels.member if isinstance(labels, Labels) else None}
        return ImageMember(apart=tuple(sorted(other for other in others if other is not None and is_picture(other))))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input addresses, always several."""
        return (self.input,) if isinstance(self.input, str) else self.input


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration in a YAML file with `a.b=c` overrides applied; relative paths are the file's.

    Raises:
        ConfigError: the file is missing or no YAML, or a key or value is not one of ours; says which and what is.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "\n".join(_explain(item) for item in error.errors())) from error
    return _anchored(config, path.resolve().parent)


def _override(data: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set wants KEY=VALUE, as in refine_maps.threshold=0.3, got {override!r}")
    *parents, last = name.split(".")
    for parent in parents:
        node = data.get(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {parent} holds a value, not a section")
        data[parent] = dict(node)  # a copy: YAML's aliases share one section among several keys
        data = data[parent]
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error


def _explain(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in _TAGS)
    if error["type"] == "extra_forbidden":
        near = " or ".join(repr(path) for path in nearest(RunConfig, where))
        hint = f"did you mean {near}?" if near else "`invertmill config` prints every key"
        return f"unknown key {where!r}; {hint}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where}: {error['msg']}, got {error['input']!r}"


_UNIONS = (Segmentation, Start, Method, SegmenterChoice)
_TAGS = frozenset(tag for union in _UNIONS for model in models_in(union) for tag in literals(model))


def _anchored(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with relative local paths resolved against the folder of its file."""
    fields = {name: _anchor(getattr(config, name), folder) for name in RunConfig.model_fields}
    fields["input"] = tuple(anchored(address, str(folder)) for address in config.inputs)
    fields["output"] = _anchor_output(config.output, folder)
    return RunConfig.model_construct(**fields)


def _anchor(value: Any, folder: Path) -> Any:  # noqa: ANN401  # whatever a configuration holds
    if isinstance(value, Path):
        return _resolved(value, folder)
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _anchor(getattr(value, name), folder) for name in type(value).model_fields}
        )
    return value


def _anchor_output(address: str, folder: Path) -> str:
    return address if "://" in address else str(_resolved(Path(address), folder))


def _resolved(path: Path, folder: Path) -> Path:
    try:
        return folder / path.expanduser()
    except RuntimeError as error:  # no such user
        raise ConfigError(f"cannot find the home folder of {str(path)!r}: {error}; write the path itself") from error
