"""The supervision as a training reads it: unit by unit, in threads, with a few units kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.base.stage import Rejected

READERS = 4  # threads that read and decode while the last window is learnt from


@dataclass(frozen=True)
class Example:
    """One image of the supervision subset and its error maps."""

    key: str
    image_HW3: NDArray[np.uint8]
    error_LHW: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.image_HW3.nbytes + self.error_LHW.nbytes


class ExampleSource(Protocol):
    """Where examples come from. Calls come from several threads at once."""

    @property
    def units(self) -> Sequence[str]:
        """The names of the pieces that can be read by themselves."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image and map."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """The names of the maps' spaces, most editable first."""

    def read(self, unit: str, wanted: Callable[[str], bool]) -> Sequence[Example | Rejected]:
        """Return the unit's examples whose keys are wanted, or why one cannot be had; always in the same order."""


def defect_of(example: Example, source: ExampleSource) -> str | None:
    """Return why nothing can be learnt from an example, None if it is sound."""
    image, error = example.image_HW3, example.error_LHW
    image_shape, error_shape = (*source.size, 3), (len(source.spaces), *source.size)
    if image.shape != image_shape or error.shape != error_shape or image.dtype != np.uint8:
        return (
            f"wanted an image {list(image_shape)} of uint8 and maps {list(error_shape)} for "
            f"{', '.join(source.spaces)}, got {list(image.shape)} of {image.dtype} and {list(error.shape)}"
        )
    if not (np.isfinite(error).all() and (error >= 0).all()):
        return "its error maps hold negative or unbounded numbers"
    return None if error.any() else "its error maps are zero everywhere, which no inversion is"


def as_batch(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images `[N, 3, H, W]` in [0, 1] and square roots of errors `[N, L, H, W]`, float32."""
    image_NHW3 = torch.from_numpy(np.stack([example.image_HW3 for example in examples])).to(device)
    error_NLHW = torch.from_numpy(np.stack([example.error_LHW for example in examples])).to(device)
    return image_NHW3.permute(0, 3, 1, 2).float() / 255, error_NLHW.float().sqrt()


class Reader:
    """Reads units in threads, and keeps the first ones in memory as far as a budget goes.

    What is kept stays: units are asked for in a new order in every pass, so that nothing is worth dropping for another.
    """

    def __init__(self, source: ExampleSource, budget_bytes: int) -> None:
        self.source = source
        self._room = budget_bytes
        self._kept: dict[str, Sequence[Example | Rejected]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS, "examples")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, unit: str, wanted: Callable[[str], bool]) -> list[Example | Rejected]:
        """Return what `ExampleSource.read` does."""
        whole = self._kept.get(unit)
        if whole is None and self._room > 0:
            whole = self.source.read(unit, lambda _key: True)
            self._keep(unit, whole)
        if whole is None:
            return list(self.source.read(unit, wanted))
        return [one for one in whole if wanted(one.key)]

    def ahead(
        self, groups: Iterable[Sequence[str]], wanted: Callable[[str, str], bool]
    ) -> Iterator[dict[str, list[Example | Rejected]]]:
        """Yield what is wanted of each group's units, given unit and key; the next group is read meanwhile."""

        def begin(units: Sequence[str]) -> dict[str, Future[list[Example | Rejected]]]:
            return {unit: self._pool.submit(self.read, unit, partial(wanted, unit)) for unit in units}

        remaining = iter(groups)
        reading = begin(next(remaining, ()))
        while reading:
            found = {unit: future.result() for unit, future in reading.items()}
            reading = begin(next(remaining, ()))  # not earlier: two groups are in memory, never three
            yield found

    def _keep(self, unit: str, whole: Sequence[Example | Rejected]) -> None:
        size = sum(one.nbytes for one in whole if isinstance(one, Example))
        with self._lock:
            if unit in self._kept:
                return
            if size <= self._room:
                self._kept[unit] = whole
                self._room -= size
            else:
                self._room = 0  # the first that does not fit ends it, so that units are not read whole in vain
