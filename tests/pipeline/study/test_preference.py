"""Preferences and their spread."""

import numpy as np
import pytest

from pipeline.study.preference import Vote, preferences

PAIR = ("SAM", "W+")


def votes(first_IA) -> list[Vote]:
    return [Vote(PAIR, f"i{i}", f"a{a}", bool(first)) for i, row in enumerate(first_IA) for a, first in enumerate(row)]


def test_the_share_counts_answers():
    (found,) = preferences(votes([[1, 1], [0, 1]]), [PAIR])
    assert (found.share, found.answers, found.images, found.annotators) == (0.75, 4, 2, 2)
    assert 0 <= found.low <= 0.75 <= found.high <= 1


def test_answers_that_all_agree_have_no_spread():
    (found,) = preferences(votes(np.ones((5, 3))), [PAIR])
    assert (found.share, found.spread, found.low, found.high) == (1, 0, 1, 1)


def test_the_spread_over_independent_images_is_that_of_a_mean():
    first_IA = (np.arange(400) % 4 > 0)[:, None]  # three quarters of 400 images, one annotator
    (found,) = preferences(votes(first_IA), [PAIR])
    assert found.spread == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)


def test_annotators_who_disagree_spread_the_share_whatever_the_number_of_images():
    first_IA = np.repeat([[1, 0]], 200, axis=0)  # one always prefers the first, one the second
    (found,) = preferences(votes(first_IA), [PAIR])
    assert found.spread == pytest.approx(0.5**0.5 / 2, rel=0.1)  # of two draws: both 1/4, mixed 1/2
    assert (found.low, found.high) == (0, 1)


def test_pairs_are_separate_and_one_without_answers_is_left_out():
    other = [Vote(("SAM", "PTI"), "i0", "a0", False)]
    found = preferences([*votes([[1]]), *other], [PAIR, ("SAM", "PTI"), ("W+", "PTI")])
    assert [(one.pair, one.share) for one in found] == [(PAIR, 1), (("SAM", "PTI"), 0)]


def test_the_seed_decides_the_spread():
    first_IA = np.arange(30).reshape(10, 3) % 2
    assert preferences(votes(first_IA), [PAIR]) == preferences(votes(first_IA), [PAIR])
