"""What an encoder is trained on: pictures with the spaces that their pixels were assigned, and known codes if any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.latents import Codes
from stages.base.stage import Rejected, Sample
from stages.encoder.fitting import Known


@dataclass(frozen=True, eq=False)
class Example:
    """One picture of the region's size, its assignment, and its codes of an earlier inversion (a batch of 1)."""

    key: str
    image_HW3: NDArray[np.uint8]
    assignment_HW: NDArray[np.uint8]
    codes: Codes | None = None


class ExampleSource(Protocol):
    """A source of examples. Several threads call it at once."""

    @property
    def units(self) -> Sequence[str]:
        """The names of the units, which can be read independently."""

    @property
    def identity(self) -> str:
        """Whatever examples depend on besides the settings of the stage."""

    def read(self, unit: str, wanted: Callable[[str], bool]) -> Iterable[Sample]:
        """Return the unit's samples with the given keys, undecoded, always in the same order."""

    def example(self, sample: Sample) -> Example | Rejected:
        """Decode a sample, or return why it is unfit for training."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples on a device: images in [-1, 1], assignments uint8, and the known codes of some if there are any."""

    image_N3HW: Tensor
    assignment_NHW: Tensor
    known: Known | None = None


def as_batch(examples: Sequence[Example], device: torch.device) -> Batch:
    """Return examples as one batch on a device."""
    image_NHW3 = torch.from_numpy(np.stack([example.image_HW3 for example in examples])).to(device)
    assignment_NHW = torch.from_numpy(np.stack([example.assignment_HW for example in examples])).to(device)
    image_N3HW = image_NHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
    return Batch(image_N3HW, assignment_NHW, _known([example.codes for example in examples], device))


def flipped(batch: Batch, flip_N: Tensor) -> Batch:
    """Return a batch with some images mirrored, left and right, together with their assignments.

    Codes of a mirrored image are not known.
    """
    image_N3HW = torch.where(flip_N[:, None, None, None], batch.image_N3HW.flip(3), batch.image_N3HW)
    assignment_NHW = torch.where(flip_N[:, None, None], batch.assignment_NHW.flip(2), batch.assignment_NHW)
    known = batch.known
    if known is not None:
        known = Known(known.codes, known.known_N * ~flip_N)
    return Batch(image_N3HW, assignment_NHW, known)


def _known(codes: Sequence[Codes | None], device: torch.device) -> Known | None:
    """Return the known codes of a batch, zeros for images without any; None if no image has some."""
    some = [each for each in codes if each is not None]
    if not some:
        return None
    each_codes = [each or Codes(torch.zeros_like(some[0].w_plus)) for each in codes]
    stacked = Codes(
        torch.cat([each.w_plus for each in each_codes]).to(device),
        _stacked([each.deltas for each in each_codes], device),
        _stacked([each.masks for each in each_codes], device),
    )
    return Known(stacked, torch.tensor([float(each is not None) for each in codes], device=device))


def _stacked(parts: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Return tensors of several images by space, zeros for images that lack one."""
    like = {space: tensor for part in parts for space, tensor in part.items()}
    return {
        space: torch.cat([part.get(space, torch.zeros_like(tensor)) for part in parts]).to(device)
        for space, tensor in like.items()
    }
