"""Examples of a training that lie in memory, a few to a unit; what is read is noted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stages.base.stage import Rejected
from stages.segmenter.examples import Example


@dataclass
class InMemory:
    """An `ExampleSource`."""

    examples: Sequence[Example | Rejected]
    spaces: tuple[str, ...] = ("W+", "F4")
    size: tuple[int, int] = (24, 24)
    in_a_unit: int = 4
    reads: list[tuple[str, ...]] = field(default_factory=list)  # the keys of each read

    @property
    def units(self) -> list[str]:
        return [f"unit{i}" for i in range(0, len(self.examples), self.in_a_unit)]

    def read(self, unit: str, wanted: Callable[[str], bool]) -> list[Example | Rejected]:
        first = int(unit.removeprefix("unit"))
        found = [one for one in self.examples[first : first + self.in_a_unit] if wanted(one.key)]
        self.reads.append(tuple(one.key for one in found))
        return found
