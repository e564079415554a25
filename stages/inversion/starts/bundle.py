"""A start at codes that were found before: those of another store, or of a file that `invertmill export` wrote."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, StringConstraints, model_validator
from torch import Tensor

from generators.codes import CodesFile
from generators.generator import Generator
from generators.latents import Codes
from generators.prior import Prior
from stages.base.errors import BadSampleError
from stages.base.stage import Sample
from stages.engine.schedule import Schedule
from stages.inversion.starts.start import Begin, StartSource
from stages.inversion.viewer import Photograph, Viewer
from stages.objective.objective import Objective, Target

GIVEN = "start"
"""The name under which a sample carries the record of the earlier inversion that it starts from."""


def _path_unless_address(value: object) -> object:
    return Path(value) if isinstance(value, str) and "://" not in value else value


class Bundle(StartSource):
    """Start at the w_plus of an earlier inversion of the same image; deltas start at zero.

    Codes come from a file, matched by key, or from another store of inversions of the same shards. An image without
    codes there is quarantined.
    """

    schedule: ClassVar[Schedule] = Schedule(steps=251)

    kind: Literal["bundle"] = "bundle"
    codes: Path | None = None  # a .npy or .pt file of w_plus, [N, num_ws, w_dim], as `invertmill export` writes it
    keys: Path | None = None  # a .csv file with the columns key and, if needed, shard; None has the name of `codes`
    store: Annotated[Path | str | None, BeforeValidator(_path_unless_address)] = None
    """A folder or s3://bucket/prefix with inversions of the same shards, cut into units of the same size."""
    inversions: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")] | None = None
    """Fingerprint of the inversions in that store, as `invertmill status` prints it; None takes the published ones."""

    @model_validator(mode="before")
    @classmethod
    def _keys_next_to_codes(cls, settings: Any) -> Any:  # noqa: ANN401  # what a model is validated from
        if not isinstance(settings, Mapping) or settings.get("codes") is None or settings.get("keys") is not None:
            return settings
        return {**settings, "keys": Path(str(settings["codes"])).with_suffix(".csv")}

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if (self.codes is None) == (self.store is None):
            raise ValueError("start: bundle needs either codes (a file) or store (another store's inversions)")
        if self.store is None and self.inversions is not None:
            raise ValueError("inversions names those of a store: add store, or remove inversions")
        return self

    def hashed_as(self, name: str) -> dict[str, object]:
        """Return the digests of the files, or the fingerprint of the inversions: where they are decides nothing."""
        if self.store is None:
            return {name: {"kind": self.kind, "codes": self.codes, "keys": self.keys}}
        return {name: {"kind": self.kind, "inversions": self.inversions}}

    def weight_files(self) -> tuple[Path, ...]:
        """Return the files of codes and keys."""
        return tuple(path for path in (self.codes, self.keys) if path is not None)

    def check_fits(self, generator: Generator, spaces: Sequence[str]) -> None:
        """Raise `CheckpointError` unless the files hold codes of this generator's shape, with a key each."""
        if self.codes is not None and self.keys is not None:
            _opened(self.codes, self.keys).check_fits(generator)

    def given(self, sample: Sample) -> Tensor | None:
        """Return the codes from which a sample's inversion starts; raise `BadSampleError` if there are none."""
        if self.codes is not None and self.keys is not None:
            w_plus = _opened(self.codes, self.keys).of(sample.shard, sample.key)
        else:
            record = sample.records.get(GIVEN)
            w_plus = None if record is None else torch.from_numpy(np.asarray(record.row["w_plus"], np.float32))
        if w_plus is None:
            raise BadSampleError(
                f"there are no codes of it in {self.codes or self.store}, from which inversions start; add them, or "
                "choose another start"
            )
        return w_plus

    def load(self, viewer: Viewer, prior: Prior, objective: Objective, *, labelled: bool) -> Begin:
        """Return the start."""
        self.check_fits(viewer.generator, viewer.spaces)
        generator, device = viewer.generator, viewer.device

        def begin(photograph: Photograph, target: Target, assignment_HW: NDArray[np.uint8]) -> Codes:
            w_plus = photograph.given
            assert w_plus is not None, "photographs carry the codes that they start from"
            if w_plus.shape not in ((generator.num_ws, generator.w_dim), (1, generator.w_dim)):
                raise BadSampleError(
                    f"the codes that it starts from are {list(w_plus.shape)}, and the generator's are "
                    f"{[generator.num_ws, generator.w_dim]}"
                )
            return Codes(w_plus.expand(1, generator.num_ws, -1).clone().to(device))

        return begin


@functools.lru_cache(maxsize=2)
def _opened(codes: Path, keys: Path) -> CodesFile:
    return CodesFile.open(codes, keys)
