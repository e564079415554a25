"""Reading the supervision for a training: unit by unit, in threads, with a few units kept in memory."""

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

READERS = 4  # threads that read and decode while the current window trains


@dataclass(frozen=True)
class Example:
    """One image of the supervision subset and its error maps."""

    key: str
    image_HW3: NDArray[np.uint8]
    error_LHW: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.image_HW3.nbytes + self.error_LHW.nbytes


class ExampleSource(Protocol):
    """A source of examples. Several threads call it at once."""

    @property
    def units(self) -> Sequence[str]:
        """The names of the units, which can be read independently."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image and map."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """The names of the maps' spaces, most editable first."""

    def read(self, unit: str, wanted: Callable[[str], bool]) -> Sequence[Example | Rejected]:
        """Return the unit's examples with the given keys, or why one is unavailable; always in the same order."""


def defect_of(example: Example, source: ExampleSource) -> str | None:
    """Return why an example is unfit for training, None if it is sound."""
    image, error = example.image_HW3, example.error_LHW
    image_shape, error_shape = (*source.size, 3), (len(source.spaces), *source.size)
    if image.shape != image_shape or error.shape != error_shape or image.dtype != np.uint8:
        return (
            f"expected an image {list(image_shape)} of uint8 and maps {list(error_shape)} for "
            f"{', '.join(source.spaces)}, got {list(image.shape)} of {image.dtype} and {list(error.shape)}"
        )
    if not (np.isfinite(error).all() and (error >= 0).all()):
        return "its error maps hold negative or unbounded numbers"
    return None if error.any() else "its error maps are zero everywhere, which no inversion reaches"


def as_batch(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images `[N, 3, H, W]` in [0, 1] and square roots of errors `[N, L, H, W]`, float32."""
    image_NHW3 = torch.from_numpy(np.stack([example.image_HW3 for example in examples])).to(device)
    error_NLHW = torch.from_numpy(np.stack([example.error_LHW for example in examples])).to(device)
    return image_NHW3.permute(0, 3, 1, 2).float() / 255, error_NLHW.float().sqrt()


class Reader:
    """Read units in threads, and keep the first ones in memory up to a budget.

    Kept units stay: every pass requests units in a new order, so replacing one by another gains nothing.
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
        """Return the result of `ExampleSource.read`."""
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
        """Yield the selected examples of each group's units, given unit and key; read the next group meanwhile."""

        def begin(units: Sequence[str]) -> dict[str, Future[list[Example | Rejected]]]:
            return {unit: self._pool.submit(self.read, unit, partial(wanted, unit)) for unit in units}

        remaining = iter(groups)
        reading = begin(next(remaining, ()))
        while reading:
            found = {unit: future.result() for unit, future in reading.items()}
            reading = begin(next(remaining, ()))  # not earlier, so that two groups are in memory, never three
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
                self._room = 0  # the first unit that does not fit closes the cache: none is read whole in vain
