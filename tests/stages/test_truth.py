"""Maps against known occluders: values worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.truth import auroc, average_precision

OCCLUDED_HW = np.array([[True, False], [True, False]])


def test_average_precision_is_the_precision_at_each_recall():
    error_HW = np.array([[0.9, 0.7], [0.5, 0.1]])  # found in the order yes, no, yes, no
    assert average_precision(error_HW, OCCLUDED_HW) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert auroc(error_HW, OCCLUDED_HW) == pytest.approx(3 / 4)


def test_auroc_is_scikit_learns_ties_included():
    random = np.random.default_rng(0)
    occluded_HW = random.random((40, 50)) < 0.1
    for error_HW in (random.random((40, 50), np.float32) + 0.2 * occluded_HW, random.integers(0, 5, (40, 50)) / 5):
        wanted = roc_auc_score(occluded_HW.ravel(), error_HW.ravel())
        assert auroc(error_HW, occluded_HW) == pytest.approx(wanted, abs=1e-12)


def test_a_map_that_says_nothing_has_the_average_precision_of_chance():
    occluded_HW = np.array([[True, False, False, False, False]])
    assert average_precision(np.full((1, 5), 0.3), occluded_HW) == pytest.approx(1 / 5)


@pytest.mark.parametrize("occluded_HW", [None, np.zeros((2, 2), bool), np.ones((2, 2), bool)])
def test_without_both_kinds_of_pixels_nothing_is_known(occluded_HW):
    assert average_precision(np.ones((2, 2)), occluded_HW) is None
    assert auroc(np.ones((2, 2)), occluded_HW) is None
