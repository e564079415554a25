"""A run's configuration: one YAML file, validated whole before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from pipeline.evaluate_settings import Evaluate, with_whole_methods
from pipeline.stage_settings import Settings, defaults
from stages.edit import Edit
from stages.editing.settings import CLASS_MOVE, FROM_FILE, ClassMove
from stages.error_maps import ErrorMaps
from stages.images.image_member import ImageMember, is_picture
from stages.images.labels import Label
from stages.images.members import Member
from stages.inversion.encoders import AnyEncoder
from stages.inversion.methods import Method
from stages.inversion.rounding import Packing
from stages.inversion.starts import Start
from stages.invert import Invert
from stages.maps.region import Region
from stages.perceptual.source import PerceptualSource
from stages.predict_maps import PredictMaps
from stages.refine_maps import RefineMaps
from stages.segmentation import Labels, Segmentation
from stages.segmenter.choice import SegmenterChoice, TrainedHere
from stages.trade_off import TradeOff
from stages.train_encoder import TrainEncoder
from stages.train_segmenter import TrainSegmenter

Share = Annotated[float, Field(ge=0.0, le=1.0)]
SUPERVISED = 10_000
"""Number of samples that get error maps by default, as in the thesis."""


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Supervision(Section):
    """The samples that get error maps. Chosen by hash of the key, so that the choice stays when data grows."""

    shards: str = "*"  # names of their shards, as a glob
    samples: PositiveInt | None = None
    """Number of samples, including those held out; 10,000 as in the thesis, unless `share` is set. New
    data adds samples until there are enough, and changes none that were chosen."""
    share: Share | None = None  # choose this share of the samples instead, of new data too
    held_out_shards: str | None = None  # shards whose samples get error maps for evaluation, and are never trained on
    held_out_share: Share = 0.1  # share of the chosen samples that is held out, if no shards are

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
        """The number of samples to choose; None if a share is chosen."""
        return None if self.share is not None else self.samples or SUPERVISED

    @property
    def identity(self) -> dict[str, object]:
        """Everything that the choice depends on, for fingerprints."""
        many = {"samples": self.number} if self.share is None else {"share": self.share}
        rest = {"held_out_shards": self.held_out_shards, "held_out_share": self.held_out_share}
        return {"shards": self.shards, **many, **rest}


class MapSettings(Section):
    """The common settings of error maps and predicted maps."""

    side_px: PositiveInt | None = 256
    """Longest side at which maps are made, predicted and compared with tau; null is the region's own. The numbers of a
    distance depend on its size, and the published tau belongs to 256. Maps are never larger than the region."""


class Compute(Section):
    """The resources of a run. Nothing here changes a result."""

    address: str | None = None  # address of a Ray cluster; None starts Ray on this machine
    workers: PositiveInt | None = None  # actors per stage; None is one per GPU, or one per core without a GPU
    gpus_per_worker: float | None = None  # None is 1 if Ray knows a GPU, else 0
    cpus_per_worker: PositiveInt = 1  # cores reserved for a worker, and threads it computes with
    training_workers: PositiveInt = 1  # workers of a training; several train data-parallel under Ray Train
    unit_deadline_s: PositiveFloat = 3600.0  # limit of a unit (not of a training), after which its worker is replaced
    open_deadline_s: PositiveFloat = 1800.0  # limit for a worker to start and load, after which it is replaced
    attempts: PositiveInt = 3  # attempts per unit before it is given up and reported
    lost_workers: NonNegativeInt = 100  # workers lost with their machine before the run stops


class Storage(Section):
    """How object storage is reached. Credentials come from boto3's usual chain, never from here."""

    input: AnyOptions = S3Options()
    output: AnyOptions = S3Options()


class RunConfig(Section):
    """Everything that one run depends on."""

    input: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Addresses of shards: a folder, bucket, file or glob, or a list of these."""
    output: str  # folder or s3://bucket/prefix; bundles, receipts and the index
    folder: Path  # local folder for report.html and summary.json
    seed: int = 0
    """Without effect, for earlier configurations: `train_segmenter.seed` decides a training, and all other draws are
    the same in every run."""
    generator: GeneratorSource
    perceptual: PerceptualSource = PerceptualSource()
    region: Region | None = None  # active part of the generator's canvas; None is all of it
    spaces: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Spaces to invert images in, most editable first, as [W+, F4, F6]; None is all of the generator's."""
    label: Label | None = None
    """Class of every image, for a conditional generator: a number for all, or its place in samples, as {member: cls} or
    {member: json, field: class}. Start and prior of an inversion are then of that class; None uses the mean of all."""
    maps: MapSettings = MapSettings()
    bundles: Packing = Packing()  # how codes are stored
    image: Member | None = None  # member of a sample that is its picture, as image.jpg; None selects it by extension
    input_check: Literal["listing", "digest"] = "listing"
    """How a changed shard is detected: by size and ETag or modification time, or by reading it in every run."""
    truth: Member | None = None  # member of a sample that masks a known occluder, if the shards have one
    true_edits: Member | None = None
    """Member of a sample with the true images of edits, if the shards have one: an npz of `[H, W, 3]` uint8 by
    NAME.MAGNITUDE. The report then measures how close the edits come to them."""
    unit_samples: PositiveInt = 64  # consecutive samples that an actor processes and commits at a time
    supervision: Supervision = Supervision()
    error_maps: Settings[ErrorMaps] = defaults(ErrorMaps)  # how supervision is made
    segmenter: SegmenterChoice = TrainedHere()  # trained on the supervision, or a published checkpoint
    train_segmenter: Settings[TrainSegmenter] = defaults(TrainSegmenter)  # how the segmenter is trained
    predict_maps: Settings[PredictMaps] = defaults(PredictMaps)  # how maps are predicted
    refine_maps: Settings[RefineMaps] = defaults(RefineMaps)  # how maps become an assignment of spaces to segments
    train_encoder: Settings[TrainEncoder] | None = None
    """How a SAM encoder is trained on the images as assigned; a run trains one only if this is configured."""
    invert: Settings[Invert] = defaults(Invert)  # how images are inverted in the assigned spaces
    trade_off: Settings[TradeOff] = defaults(TradeOff)
    """How `invertmill tune --invert` measures the cost of editability; objective and schedule are those of `invert`."""
    edit: Settings[Edit] | None = None  # edits of every inverted image; made by a run only if they are configured
    evaluate: Evaluate | None = None  # methods that `invertmill evaluate` compares; a run computes none of them
    compute: Compute = Compute()
    storage: Storage = Storage()

    _methods_are_whole = model_validator(mode="before")(with_whole_methods)

    @field_validator("truth")
    @classmethod
    def _truth_is_not_the_picture(cls, truth: str | None, info: ValidationInfo) -> str | None:
        if truth is not None and truth == info.data.get("image"):
            raise ValueError(f"{truth!r} is the picture already (image): name the member that masks its occluder")
        return truth

    @model_validator(mode="after")
    def _own_classes_are_known(self) -> Self:
        moves = () if self.edit is None else self.edit.directions
        own = [move.name for move in moves if isinstance(move, ClassMove) and move.from_class is None]
        if own and self.label is None:
            raise ValueError(
                f"edit.directions: {', '.join(own)} moves images from their own class, and `label` does not give it: "
                "set label, or from_class"
            )
        return self

    @property
    def image_member(self) -> ImageMember:
        """The member of a sample that is its picture: as configured, or any not configured to be something else.

        Labels count under their usual name whatever the segmentation is, so that changing it keeps the error maps.
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
        ConfigError: the file is missing or not YAML, or a key or value is invalid; the message gives both.
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
        raise ConfigError(f"--set needs KEY=VALUE, as in refine_maps.threshold=0.3, got {override!r}")
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
    where = ".".join(_without_tags(error["loc"]))
    if error["type"] == "extra_forbidden":
        alike = nearest(RunConfig, where)
        if where in alike:
            section = where.rpartition(".")[0]
            return f"{where!r} belongs to another kind of {section!r}: give the whole section, with its kind"
        near = " or ".join(repr(path) for path in alike)
        hint = f"did you mean {near}?" if near else "`invertmill config` prints every key"
        return f"unknown key {where!r}; {hint}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where}: {error['msg']}, got {error['input']!r}"


def _without_tags(location: Sequence[object]) -> Iterator[str]:
    """Yield the parts of a key; a kind follows the field that it is chosen in, and a field may be named like a kind."""
    dropped = False
    for part in location:
        dropped = not dropped and part in _TAGS
        if not dropped:
            yield str(part)


_UNIONS = (Segmentation, Start, Method, AnyEncoder, SegmenterChoice)
_TAGS = frozenset(tag for union in _UNIONS for model in models_in(union) for tag in literals(model))
_TAGS |= {FROM_FILE, CLASS_MOVE}


def _anchored(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with relative local paths resolved against the folder of its file."""
    fields = {name: _anchor(getattr(config, name), folder) for name in RunConfig.model_fields}
    fields["input"] = tuple(anchored(address, str(folder)) for address in config.inputs)
    fields["output"] = _anchor_output(config.output, folder)
    if (encoder := config.train_encoder) is not None and encoder.codes is not None:
        fields["train_encoder"] = encoder.model_copy(update={"codes": _anchor_output(encoder.codes, folder)})
    return RunConfig.model_construct(**fields)


def _anchor(value: Any, folder: Path) -> Any:  # noqa: ANN401  # any value of a configuration
    if isinstance(value, Path):
        return _resolved(value, folder)
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _anchor(getattr(value, name), folder) for name in type(value).model_fields}
        )
    if isinstance(value, tuple):
        return tuple(_anchor(item, folder) for item in value)
    return value


def _anchor_output(address: str, folder: Path) -> str:
    return address if "://" in address else str(_resolved(Path(address), folder))


def _resolved(path: Path, folder: Path) -> Path:
    try:
        return folder / path.expanduser()
    except RuntimeError as error:  # no such user
        raise ConfigError(f"cannot find the home folder of {str(path)!r}: {error}; write the path itself") from error
