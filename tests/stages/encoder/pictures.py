"""A tiny generator with its files, and examples that lie in memory, a few to a unit."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from generators.latents import Codes
from generators.source import GeneratorSource
from stages.base.stage import Rejected, Sample
from stages.encoder.examples import Example
from stages.encoder.network import EncoderNetwork
from stages.maps.region import Region
from stages.objective.objective import Objective
from stages.perceptual.source import PerceptualSource
from stages.train_encoder import TrainEncoder
from tests import tiny

NETWORK = EncoderNetwork(side_px=32, channels=8, max_channels=8, hidden=16)


def stage(folder: Path, **changes) -> TrainEncoder:
    """Return a quick training with the networks that `tiny.write_networks` wrote into a folder."""
    settings = {
        "generator": GeneratorSource(checkpoint=folder / "generator.safetensors"),
        "perceptual": PerceptualSource(backbone="small", weights=folder / "perceptual.safetensors"),
        "region": Region.whole(tiny.SIDE_PX),
        "spaces": tiny.SPACES,
        "network": NETWORK,
        "objective": Objective(shrinkage=1e-3),
        "training_steps": 6,
        "batch": 2,
        "points": 3,
        "learning_rate": 3e-3,
        "validation_share": 0.2,
        "shuffle_window": 3,
    }
    return TrainEncoder(**settings | changes)


def examples(count: int, codes: Codes | None = None) -> list[Example]:
    """Return flat pictures with a square of noise; the square is in the last space, the rest in W+."""
    random = np.random.default_rng(3)
    side, made = tiny.SIDE_PX, []
    for i in range(count):
        image_HW3 = np.broadcast_to(random.integers(0, 256, 3, np.uint8), (side, side, 3)).copy()
        assignment_HW = np.zeros((side, side), np.uint8)
        square = np.s_[i % 16 : i % 16 + 12, 4:16]
        image_HW3[square] = random.integers(0, 256, (12, 12, 3), np.uint8)
        assignment_HW[square] = 2 - i % 2
        made.append(Example(f"image{i}", image_HW3, assignment_HW, codes))
    return made


@dataclass
class InMemory:
    """An `ExampleSource`."""

    examples: Sequence[Example | Rejected]
    identity: str = "in memory"
    in_a_unit: int = 3
    decoded: list[str] = field(default_factory=list)  # keys, in order

    @property
    def units(self) -> list[str]:
        return [f"unit{i}" for i in range(0, len(self.examples), self.in_a_unit)]

    def read(self, unit: str, wanted: Callable[[str], bool]) -> Iterator[Sample]:
        first = int(unit.removeprefix("unit"))
        found = itertools.islice(self.examples, first, first + self.in_a_unit)
        return (Sample(one.key, "shard", {}) for one in found if wanted(one.key))

    def example(self, sample: Sample) -> Example | Rejected:
        self.decoded.append(sample.key)
        return next(one for one in self.examples if one.key == sample.key)
