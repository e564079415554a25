"""The units of a part: decided by their names, so that what is new moves nothing else."""

import random

from pipeline.data.units import Shard, Unit
from pipeline.publish.grouping import MOST, UNITS_PER_PART, grouped


def units(shards, per_shard=50, samples=10):
    return [
        Unit(Shard(0, f"{name}.tar", "0", per_shard * samples), first, first + samples)
        for name in shards
        for first in range(0, per_shard * samples, samples)
    ]


def parts(of, rows=2000):
    return [tuple(of[number].name for number in numbers) for numbers in grouped(of, rows)]


def test_every_unit_is_in_one_part_in_order():
    of = units(f"{n:03d}" for n in range(20))
    assert [name for part in parts(of) for name in part] == [unit.name for unit in of]


def test_parts_have_about_the_wanted_rows_and_never_many_times_more():
    of = units(f"{n:04d}" for n in range(200))
    sizes = [10 * len(part) for part in parts(of)]
    assert 1000 < sum(sizes) / len(sizes) < 3000
    assert max(sizes) <= MOST * 2000


def test_parts_of_small_units_have_fewer_rows():
    of = units((f"{n:04d}" for n in range(40)), per_shard=500, samples=2)
    sizes = [len(part) for part in parts(of, 1_000_000)]
    assert UNITS_PER_PART / 2 < sum(sizes) / len(sizes) < 2 * UNITS_PER_PART
    assert max(sizes) <= MOST * UNITS_PER_PART


def test_shards_that_are_added_or_removed_anywhere_change_only_the_parts_they_fall_into():
    names = [f"{n:04d}" for n in range(200)]
    before = set(parts(units(names)))
    for changed in (sorted(random.Random(0).sample(names, 197)), sorted([*names, "0000a", "0100a", "9999"])):
        after = set(parts(units(changed)))
        assert len(after - before) <= 6, "one part at each place that changed, and one that a full part is followed by"


def test_a_unit_larger_than_a_part_is_a_part():
    assert [len(part) for part in parts(units(["a"], per_shard=3, samples=9000))] == [1, 1, 1]
    assert list(grouped([])) == []
