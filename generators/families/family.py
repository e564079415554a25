"""What a generator family is: its name, its configuration and options, and how they make a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from generators.generator import Generator


class FamilyOptions(BaseModel):
    """How a generator of a family is driven, chosen when it is loaded: keys of `generator` in a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused: ClassVar[Mapping[str, str]] = {}
    """Options of other families that this family refuses, and what to do instead; `{value}` is the value."""


@dataclass(frozen=True)
class Family:
    """One family of generators."""

    name: str
    """In own checkpoints, and wherever a generator is described."""
    title: str
    """In messages."""
    config: type[BaseModel]
    """The shape of a network. Every family has a configuration class of its own."""
    options: type[FamilyOptions]
    build: Callable[[Any, Any], Generator]
    """Returns the network of a configuration and options, on torch's current default device."""
    layers: Callable[[Any], tuple[int, str]]
    """Returns a lower bound of the tensors of a configuration's network, and how messages name what it announces."""
    sample_z: Callable[[Generator, int, torch.Generator, float], Tensor]
    """Returns z `[samples, z_dim]` of random images for a truncation, on the CPU."""
