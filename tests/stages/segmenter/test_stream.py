import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from stages.base.errors import StageError
from stages.base.stage import Rejected
from stages.segmenter.examples import Example, Reader
from stages.segmenter.stream import Share, windows
from stages.segmenter.survey import survey
from stages.training.workers import Workers
from tests.stages.in_memory import InMemory

COUNTS = {"a": 3, "b": 1, "c": 4, "d": 2}


def order(counts, least, seed=0, start=0, passes=1):
    """Return what the windows hold, as (unit, number in it)."""
    found = []
    for window in windows(counts, least, seed, start):
        of_window = [(unit, i) for unit in window.units for i in range(counts[unit])]
        found += [of_window[i] for i in window.order]
        if len(found) >= passes * sum(counts.values()) - start:
            return found
    raise AssertionError


@pytest.mark.parametrize("least", [1, 4, 100])
def test_every_pass_holds_every_example_once_in_an_order_of_its_own(least):
    found = order(COUNTS, least, passes=3)
    passes = [found[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(one) == sorted((unit, i) for unit, n in COUNTS.items() for i in range(n)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert order(COUNTS, least, seed=1) != passes[0]


def test_examples_of_a_window_are_mixed_across_its_units():
    units = [unit for unit, _ in order({"a": 20, "b": 20}, least=40)]
    assert sum(one != other for one, other in itertools.pairwise(units)) > 5


@pytest.mark.parametrize("least", [1, 4, 100])
def test_what_is_left_out_at_the_start_changes_nothing_after_it(least):
    whole = order(COUNTS, least, passes=3)
    for start in range(20):
        assert order(COUNTS, least, start=start, passes=3) == whole[start:]


def made(count: int) -> list[Example]:
    image_HW3, error_LHW = np.zeros((24, 24, 3), np.uint8), np.ones((2, 24, 24), np.float16)
    return [Example(f"image{i}", image_HW3, error_LHW) for i in range(count)]


def shares(source: InMemory, world: int, window: int = 8) -> list[Share]:
    """Return the share of each worker, all of them in this process."""

    def is_held_out(key: str) -> bool:
        return int(key.removeprefix("image")) % 5 == 0

    reader = Reader(source, 0)
    found = survey(reader, is_held_out, 0, Workers())
    return [Share(reader, found, is_held_out, window, 0, Workers(rank, world)) for rank in range(world)]


def test_workers_divide_what_is_trained_on_and_what_is_held_out():
    of_all = shares(InMemory(made(33)), world=2)
    training = [[one.key for one in next(share.batches(share.count))] for share in of_all]
    held_out = [[one.key for batch in share.once(2) for one in batch] for share in of_all]
    assert Counter(itertools.chain(*training, *held_out)) == Counter(f"image{i}" for i in range(33))
    assert set(itertools.chain(*held_out)) == {f"image{i}" for i in range(0, 33, 5)}
    assert all(len(keys) > 10 for keys in training)
    assert {share.largest for share in of_all} == {max(share.count for share in of_all)}


def test_memory_holds_two_windows_of_examples_and_no_more():
    source = InMemory(made(100))
    (share,) = shares(source, world=1)
    source.reads.clear()
    for number, _ in enumerate(itertools.islice(share.batches(size=1), 60), start=1):
        settle()
        assert sum(map(len, source.reads)) <= number + 2 * (8 + 4)


def settle() -> None:
    """Give threads that read ahead the time to read too much."""
    for thread in threading.enumerate():
        if thread.name.startswith("examples"):
            thread.join(0.001)


def test_units_without_room_are_read_again_and_only_as_far_as_wanted():
    source = InMemory(made(12))
    size = source.examples[0].nbytes
    with Reader(source, budget_bytes=5 * size) as reader:
        for _ in range(2):
            for unit in source.units:
                reader.read(unit, "image9".__eq__)
    whole, none = [tuple(f"image{i}" for i in range(k, k + 4)) for k in (0, 4)], ()
    assert source.reads == [*whole, ("image9",), none, ("image9",)]


def test_data_that_change_under_a_training_stop_it():
    source = InMemory(made(8))
    (share,) = shares(source, world=1)
    source.examples[3] = Rejected("image3", "it does not decode")
    with pytest.raises(StageError, match=r"changed .* held 6 examples and now 5 \(image3: it does not decode\)"):
        next(share.batches(8))


def test_more_workers_than_units_are_told_so():
    class FirstOfTwo(Workers):
        """The other one, which has no unit to look at, has nothing to tell."""

        def gathered(self, mine):
            return list(mine)

    with Reader(InMemory(made(3)), 0) as reader, pytest.raises(StageError, match=r"has 2 workers, .* lies in 1 units"):
        survey(reader, lambda _key: False, 0, FirstOfTwo(0, 2))
