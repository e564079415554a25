"""What the tests of methods share: tiny networks, samples with maps, and the stage that inverts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators.source import GeneratorSource
from stages.base.stage import Record, Rejected, Sample
from stages.encoder.checkpoint import save_encoder
from stages.encoder.network import EncoderNetwork, new_encoder
from stages.engine.schedule import Schedule
from stages.invert import Invert
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from tests import tiny

CPU = torch.device("cpu")
SIDE = tiny.SIDE_PX
NETWORK = EncoderNetwork(side_px=32, channels=8, max_channels=8, hidden=16)
STRIPES_HW = np.repeat(np.arange(SIDE, dtype=np.uint8)[None] % 3, SIDE, axis=0)
"""Columns in W+, F2 and F4 in turn."""


def sources(folder: Path) -> dict[str, Any]:
    """Write tiny networks to a folder, and return the fields of a stage that name them."""
    networks = tiny.write_networks(folder)
    return {
        "generator": GeneratorSource(checkpoint=networks["generator"]),
        "perceptual": PerceptualSource(backbone="small", weights=networks["perceptual"]),
        "objective": Objective(shrinkage=1e-3),
    }


def sam_encoder(sources: dict[str, Any]) -> bytes:
    """Return the file of a SAM encoder of the tiny generator in which every layer acts."""
    generator = sources["generator"].load(CPU)
    encoder = new_encoder(NETWORK, generator, tiny.SPACES, torch.zeros(generator.w_dim), seed=0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel())))
    return save_encoder(encoder, "random, for tests")


def sample(number: int) -> Sample:
    """Return a sample whose maps gave every space a third of its columns."""
    refined = Record(f"s{number}", {}, {"assignment_HW": STRIPES_HW})
    return Sample(f"s{number}", "shard", {"png": tiny.picture(number)}, {"refine_maps": refined})


def stage_of(sources: dict[str, Any], method: Any = None, **settings: Any) -> Invert:
    """Return the stage with few steps, and settings as a configuration has them."""
    fast = {"schedule": Schedule(steps=6, learning_rate=0.1), "batch": 2}
    chosen = {} if method is None else {"method": method}
    return Invert.model_validate({**sources, **fast, **chosen, **settings})


def inverted(stage: Invert, *samples: Sample) -> list[Record]:
    """Return the records of samples, none of which is rejected."""
    records = list(stage.setup(CPU)(samples))
    rejected = [record.reason for record in records if isinstance(record, Rejected)]
    assert rejected == [], rejected
    return [record for record in records if isinstance(record, Record)]
