import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infra.bundles import write_npz
from stages.maps.assignment import assign_spaces, segment_means
from stages.maps.stored import STEP, stored_maps

GOLDEN = Path(__file__).parent / "golden"
ERRORS = arrays(np.float32, (2, 4, 4), elements=st.floats(0, 1.984375, width=32))


@settings(deadline=None)
@given(ERRORS)
def test_stored_maps_are_multiples_of_the_step_within_half_of_it(error_LHW):
    stored_LHW = stored_maps(error_LHW)
    assert stored_LHW.dtype == np.float16
    moved_LHW = np.abs(stored_LHW.astype(np.float64) - error_LHW)
    if stored_LHW.max(initial=0) >= STEP:
        assert not np.any(stored_LHW.astype(np.float64) % STEP)
    assert moved_LHW.max() <= STEP / 2


@settings(deadline=None)
@given(ERRORS, st.floats(0, 1))
def test_no_assignment_changes_unless_a_mean_is_within_half_a_step_of_the_threshold(error_LHW, threshold):
    labels_HW = np.arange(16).reshape(4, 4) // 4
    stored_LHW = stored_maps(error_LHW).astype(np.float32)
    means = segment_means(error_LHW, labels_HW)[1]
    if np.abs(means - threshold).min() > STEP / 2 + 1e-6:
        wanted_HW = assign_spaces(error_LHW, labels_HW, threshold)
        np.testing.assert_array_equal(assign_spaces(stored_LHW, labels_HW, threshold), wanted_HW)


def test_maps_that_are_small_everywhere_do_not_become_zero_everywhere():
    small_LHW = np.full((2, 3, 3), 2e-4, np.float32)
    np.testing.assert_array_equal(stored_maps(small_LHW), small_LHW.astype(np.float16))
    assert not stored_maps(np.zeros((2, 3, 3), np.float32)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_are_not_finite_stay_so(value):
    error_LHW = np.full((1, 2, 2), 0.25, np.float32)
    error_LHW[0, 1, 1] = value
    assert np.isfinite(stored_maps(error_LHW)).tolist() == [[[True, True], [True, False]]]


def test_rounded_maps_take_far_fewer_bytes():
    """Of a smooth map with the noise that those of networks have; figures in docs/experiments.md."""
    y, x = np.mgrid[:128, :128] / 128
    noise = np.random.default_rng(0).normal(0, 2e-3, (128, 128))
    error_LHW = (0.2 * np.sin(5 * x) ** 2 * y + 0.01 + noise)[None].clip(0).astype(np.float32)
    sizes = [len(write_npz({"error_LHW": kept})) for kept in (stored_maps(error_LHW), error_LHW.astype(np.float16))]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize(("form", "largest"), [("float16", 2.0**-12), ("rounded", STEP / 2)])
def test_stock_numpy_reads_the_maps_of_every_version(form, largest):
    data = (GOLDEN / f"{form}.maps.npz").read_bytes()
    error_LHW = np.load(io.BytesIO(data), allow_pickle=False)["error_LHW"]
    whole_LHW = np.load(GOLDEN / "whole.npy")
    assert (error_LHW.dtype, error_LHW.shape) == (np.float16, (2, 16, 16))
    assert np.abs(error_LHW.astype(np.float32) - whole_LHW).max() <= largest
