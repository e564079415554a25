"""What a stage is: a frozen, validated model whose fields are its configuration.

`setup` loads networks once per actor and returns the function that works on a batch, so no half-built stage exists.
A stage knows nothing of storage or Ray: `pipeline` feeds it samples and commits its records.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from generators.generator import Generator

Value = str | int | float | bool | None | NDArray[np.generic]


@dataclass(frozen=True)
class Record:
    """What a stage records about one sample.

    `row` is what people query (scalars and small fixed-shape tensors), `arrays` what programs load, and `files` are
    files by name, such as images: `edited.png` of the sample `000123` is the member `000123.edited.png` of a tar. Names
    are in lower case, without `/`.
    """

    key: str
    row: Mapping[str, Value] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A sample that could not be processed, with the reason that goes to quarantine."""

    key: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its members by extension, and the records of earlier stages about it."""

    key: str
    shard: str
    members: Mapping[str, bytes]
    records: Mapping[str, Record] = field(default_factory=dict)


Worker = Callable[[Sequence[Sample]], Iterator[Record | Rejected]]
"""Maps samples, at most a unit's, to one record or one rejection each, in order.

Several threads call it at once, with one unit each, and it serialises what must not overlap on the device. So the next
unit is decoded, and the last one recorded and written, while one unit computes.
"""


@dataclass(frozen=True)
class OwnIndex:
    """An index that a run publishes of one stage's records alone, with rows that the stage makes of them."""

    name: str  # of its entry in `published.json`
    version: int = 1  # raise it if the same records give other rows


@dataclass(frozen=True)
class Sizes:
    """What bounds the size of a sample's records before any is made."""

    spaces: int
    map_px: int  # of a map
    region_px: int
    codes_bytes: int  # of w_plus, and of deltas and masks that act everywhere
    tuned_bytes: int = 0  # of the change of a tuned generator


class GraphStage(BaseModel):
    """The declarations of every stage; order and fingerprints follow from them (`pipeline.plan.graph`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    """Names of the stages whose results it needs. It gets each sample's record from those that map samples."""
    indifferent: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot change a result, except by rounding, and so stay out of the fingerprint."""
    added: ClassVar[Mapping[str, object]] = {}
    """Settings that are newer than the stage, each with the value that gives the earlier results. At that value they
    stay out of the fingerprint, so that earlier results are still complete."""
    stands_for: ClassVar[Mapping[str, Mapping[object, object]]] = {}
    """Values of settings, by field, that count as another in the fingerprint: results of both are equal up to rounding,
    and earlier results are still complete."""
    on_demand: ClassVar[bool] = False
    """Whether a separate command computes it, and no run does."""
    derived: ClassVar[frozenset[str]] = frozenset()
    """Fields that a run computes from other settings, so that they are not settings themselves."""

    @classmethod
    def all_added(cls) -> dict[str, object]:
        """Return what was `added` to the stage and to the classes it extends."""
        return {name: value for kind in reversed(cls.__mro__) for name, value in vars(kind).get("added", {}).items()}


class Stage(GraphStage, ABC):
    """A stage that maps samples to records. Fields are configuration; equal fields and samples give equal records."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"batch"})
    supervision_only: ClassVar[bool] = False
    """Whether it processes the supervision subset instead of all samples."""

    formerly: ClassVar[Mapping[str, Value]] = {}
    """Removed settings, with the value that corresponds to the present behaviour. They stay in the fingerprint, so
    that earlier results are still complete."""

    columns: ClassVar[Mapping[str, type[bool] | type[float] | type[str]]] = {}
    """Types of those columns of its rows that may be null in all rows of a unit."""
    keeps: ClassVar[frozenset[Literal["arrays", "files"]]] = frozenset({"arrays"})
    """Contents of its records in addition to their rows. Each is a file of every bundle, even if no record has any."""

    member: ClassVar[str] = ""
    """Name of the npz of a record's arrays, after the key of its sample: `codes` for `KEY.codes.npz`. The stage's name
    by default."""
    with_arrays: ClassVar[frozenset[str]] = frozenset()
    """Names of files that are kept in the tar of the arrays, next to the npz of their sample."""
    located: ClassVar[bool] = False
    """Whether rows say where a sample is in its shard, and where its npz is in the tar of the arrays."""

    needs_members: ClassVar[bool] = True
    """Whether it uses the members of samples; otherwise no shard is read."""

    own_index: ClassVar[OwnIndex | None] = None
    """The index of an optional stage. The stages that every run computes share one, a row per sample."""

    def index_columns(self) -> Mapping[str, type[str] | type[float]]:
        """Return the types of the columns that every part of the stage's own index has."""
        return {}

    def index_rows(self, key: str, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of a recorded sample in the stage's own index: here one, of its record without tensors."""
        yield {name: value for name, value in row.items() if not isinstance(value, np.ndarray)}

    def bytes_at_most(self, sizes: Sizes) -> int | None:
        """Return the bytes of a record's arrays and files, uncompressed; None if nothing is known of them."""
        return None

    def check(self, generator: Generator) -> None:
        """Raise an error of ours if what the settings name is missing or does not fit the run's generator."""

    def precision_on(self, device: torch.device) -> str | None:
        """Return the precision in which it computes on a device; None if there is no choice."""
        return None

    @abstractmethod
    def setup(self, device: torch.device) -> Worker:
        """Load this stage's networks onto `device` and return the function that maps samples to records."""


def sample_seed(seed: int, key: str) -> int:
    """Return the seed of a sample's random generator, which depends on nothing but run seed and key."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=7).digest())
