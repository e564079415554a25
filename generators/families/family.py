"""The contract of a generator family: its name, configuration and options, and how they make a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from generators.generator import Generator


class FamilyOptions(BaseModel):
    """Options of a family's generators, chosen at loading: keys of `generator` in a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused: ClassVar[Mapping[str, str]] = {}
    """Options of other families that this family refuses, with the remedy; `{value}` is the value."""


@dataclass(frozen=True)
class Family:
    """One family of generators."""

    name: str
    """The name in own checkpoints and descriptions."""
    title: str
    """The name in messages."""
    config: type[BaseModel]
    """The shape of a network. Every family has its own configuration class."""
    options: type[FamilyOptions]
    build: Callable[[Any, Any], Generator]
    """Returns the network of a configuration and options, on torch's current default device."""
    layers: Callable[[Any], tuple[int, str]]
    """Returns a lower bound of the tensors of a configuration's network, and the name of its announced size."""
    sample_z: Callable[[Generator, int, torch.Generator, float], Tensor]
    """Returns z `[samples, z_dim]` of random images for a truncation, on the CPU."""
