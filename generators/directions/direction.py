"""An edit direction δw with its provenance (thesis Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from generators.errors import DirectionError
from generators.generator import Generator
from generators.latents import Z_PLUS

STANDARD_DEVIATION = "standard deviation"
"""The unit of a direction whose length is the standard deviation of the generator's w along it."""
AS_PUBLISHED = "as published"
"""The unit of a direction that keeps the length of its file."""
WHOLE_EDIT = "the whole edit"
"""The unit of a direction that was optimised for one image: magnitude 1 is what was optimised."""

MAX_NAME = 100
SHOWN_NAMES = 30

Text = Annotated[str, Field(max_length=1000)]
Layers = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""First and last row of w_plus, both included."""


class Provenance(BaseModel):
    """The origin of a direction, and the meaning of its length."""

    model_config = ConfigDict(frozen=True)

    kind: Text  # how it was made: ganspace, labels, …; of a published file its format
    unit: Text = AS_PUBLISHED  # what a magnitude of 1 is
    layers: Layers | None = None  # rows that it changes; None for all
    source: Text = ""  # the file, or what it was fitted to
    source_sha256: Text = ""  # of that file
    generator_sha256: Text = ""  # of the generator that it was made for; empty if unknown
    figures: dict[str, float] = {}  # what was measured when it was made


@dataclass(frozen=True, eq=False)
class Direction:
    """One edit direction: `delta` is `[num_ws or 1, w_dim]` float32 and finite; one row is added to all rows of w."""

    name: str
    delta: Tensor
    provenance: Provenance

    def of_codes(self, generator: Generator) -> Direction:
        """Return it as a direction of a generator's codes; raise DirectionError if it does not fit them."""
        return replace(self, delta=of_codes(self.delta, generator, self.name))


def is_of_z(generator: Generator) -> bool:
    """Return whether the codes of a generator are z followed by a class embedding, as those of a BigGAN-deep."""
    return generator.spaces[0] == Z_PLUS


def of_codes(delta: Tensor, generator: Generator, name: str) -> Tensor:
    """Return a direction of a generator's codes, `[num_ws or 1, w_dim]`.

    If codes are z followed by a class embedding, a direction of `z_dim` numbers per row is one of z: it keeps the
    class.

    Args:
        delta: `[num_ws or 1, w_dim]`, or `[num_ws or 1, z_dim]` for z alone.
        generator: whose codes are edited.
        name: how messages call the direction.

    Raises:
        DirectionError: it does not fit, or is not finite.
    """
    of_z = generator.z_dim if is_of_z(generator) else None
    if of_z is not None and delta.ndim == 2 and delta.shape[1] == of_z:
        delta = F.pad(delta, (0, generator.w_dim - of_z))
    check_fits(delta, generator.num_ws, generator.w_dim, name, of_z)
    return delta


def check_fits(delta: Tensor, num_ws: int, w_dim: int, name: str, z_dim: int | None = None) -> None:
    """Raise DirectionError unless a direction is finite and fits codes `[N, num_ws, w_dim]`.

    Args:
        delta: `[num_ws or 1, w_dim]`.
        num_ws: rows of the generator's codes.
        w_dim: dimensions of each row.
        name: how messages call the direction.
        z_dim: dimensions of z, for messages, if a direction of z alone would fit too.
    """
    if delta.ndim != 2 or delta.shape[0] not in (1, num_ws) or delta.shape[1] != w_dim:
        of_z = "" if z_dim is None else f", or {z_dim} numbers per row for z alone"
        raise DirectionError(
            f"direction {name!r} is {list(delta.shape)}, and this generator's codes take [{num_ws}, {w_dim}] or "
            f"[1, {w_dim}]{of_z}: it was made for another generator; use a direction of this one"
        )
    check_finite(delta, name)


def check_finite(delta: Tensor, name: str) -> None:
    """Raise DirectionError if a number of a direction is NaN or infinite."""
    if wrong := int((~delta.isfinite()).sum()):
        raise DirectionError(
            f"direction {name!r} holds NaN or infinity: {wrong} of {delta.numel()} numbers; get or fit it again"
        )


def checked_delta(tensor: Tensor, name: str) -> Tensor:
    """Return the numbers of a file as a direction, `[num_ws or 1, w_dim]` float32.

    Args:
        tensor: `[w_dim]`, `[num_ws or 1, w_dim]` or `[1, num_ws or 1, w_dim]`, floating.
        name: how messages call the direction.

    Raises:
        DirectionError: it has another shape or type, or is not finite.
    """
    shape = list(tensor.shape)
    if not tensor.is_floating_point():
        raise DirectionError(f"direction {name!r} holds numbers of type {tensor.dtype}: floating-point ones are read")
    if 0 in shape or len(shape) not in (1, 2, 3) or (len(shape) == 3 and shape[0] != 1):
        raise DirectionError(f"direction {name!r} is {shape}: [num_ws, w_dim], [1, num_ws, w_dim] or [w_dim] is read")
    delta = tensor.float().reshape(-1, shape[-1]).clone()
    check_finite(delta, name)
    return delta


def in_layers(delta_1w: Tensor, layers: Layers | None, num_ws: int, name: str) -> Tensor:
    """Return a direction that changes some rows only: `[num_ws, w_dim]`, 0 outside `layers`.

    Args:
        delta_1w: `[num_ws or 1, w_dim]`.
        layers: first and last row, both included; None returns the direction as it is.
        num_ws: rows of the generator's codes.
        name: how messages call the direction.

    Raises:
        DirectionError: the generator does not have these rows.
    """
    if layers is None:
        return delta_1w
    first, last = layers
    if not 0 <= first <= last < num_ws:
        raise DirectionError(f"layers {first}-{last} of direction {name!r}: this generator has rows 0 to {num_ws - 1}")
    delta = torch.zeros(num_ws, delta_1w.shape[1])
    delta[first : last + 1] = delta_1w.expand(num_ws, -1)[first : last + 1]
    return delta


def shown_names(names: Collection[str]) -> str:
    """Return names for a message, cut where there are many; numbers in order as a range."""
    listed = list(names)
    if len(listed) > 2 and listed == [str(i) for i in range(len(listed))]:
        return f"0 to {len(listed) - 1}"
    more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return ", ".join(listed[:SHOWN_NAMES]) + more
