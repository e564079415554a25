from itertools import pairwise

import numpy as np
import pytest

from stages.maps.assignment import assign_spaces, segment_means

SPACES = ("W+", "F4", "F6", "F8", "F10")


def maps(*rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_means_worked_by_hand():
    error_LHW = maps([[0.1, 0.3], [0.5, 0.7]], [[0.0, 0.2], [0.4, 0.0]])
    labels, mean_KL, segment_HW = segment_means(error_LHW, np.array([[7, 7], [-2, 7]]))
    assert labels.tolist() == [-2, 7]
    np.testing.assert_allclose(mean_KL, [[0.5, 0.4], [1.1 / 3, 0.2 / 3]], rtol=1e-6)
    assert mean_KL.dtype == np.float32
    assert segment_HW.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("threshold", "wanted"),
    [
        (1.0, [[0, 0], [0, 0]]),
        (0.375, [[0, 0], [1, 1]]),  # segment 0 has means (.375, .25, .125), segment 9 (.625, .3125, .5)
        (0.3125, [[1, 1], [1, 1]]),
        (0.25, [[1, 1], [2, 2]]),  # nothing passes in segment 9: the last space, though the second is better
        (0.125, [[2, 2], [2, 2]]),
        (0.0, [[2, 2], [2, 2]]),
        (np.inf, [[0, 0], [0, 0]]),
    ],
)
def test_the_most_editable_space_within_the_threshold_wins(threshold, wanted):
    error_LHW = maps([[0.25, 0.5], [0.75, 0.5]], [[0.25, 0.25], [0.125, 0.5]], [[0, 0.25], [0.5, 0.5]])
    assignment_HW = assign_spaces(error_LHW, np.array([[0, 0], [9, 9]]), threshold)
    assert assignment_HW.dtype == np.uint8
    assert assignment_HW.tolist() == wanted


def test_a_more_editable_space_wins_over_a_better_one():
    error_LHW = maps([[0.2]], [[0.0]])
    assert assign_spaces(error_LHW, np.array([[0]]), 0.2).tolist() == [[0]]


@pytest.mark.parametrize("threshold", [0.1, np.float64(0.1), np.float32(0.1)])
def test_a_tie_in_float32_passes(threshold):
    mean = np.float32(0.1)  # larger than the float64 0.1
    assert assign_spaces(np.full((2, 3, 3), mean), np.zeros((3, 3), np.int64), threshold).max() == 0


def test_equal_labels_are_one_segment_although_they_do_not_touch():
    error_LHW = maps([[0.0, 0.9, 0.4]], [[0.0, 0.0, 0.0]])
    assert assign_spaces(error_LHW, np.array([[1, 2, 1]]), 0.2).tolist() == [[0, 1, 0]]


@pytest.fixture
def random_maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    error_LHW = rng.random((5, 31, 40), dtype=np.float32) * np.linspace(1, 0.2, 5, dtype=np.float32)[:, None, None]
    return error_LHW, rng.integers(-9, 9, (31, 40))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_renaming_the_labels_changes_nothing(random_maps, dtype):
    error_LHW, labels_HW = random_maps
    names = np.random.default_rng(4).permutation(np.arange(-60, 60))[:18].astype(dtype)
    for threshold in (0.1, 0.3, 0.499, 0.5, 0.501):
        wanted_HW = assign_spaces(error_LHW, labels_HW, threshold)
        np.testing.assert_array_equal(assign_spaces(error_LHW, names[labels_HW + 9], threshold), wanted_HW)


def test_raising_the_threshold_never_moves_a_segment_to_a_later_space(random_maps):
    error_LHW, labels_HW = random_maps
    found = [assign_spaces(error_LHW, labels_HW, tau) for tau in np.linspace(0, 0.6, 61)]
    assert len(np.unique(found)) == 5
    for stricter_HW, looser_HW in pairwise(found):
        assert (looser_HW <= stricter_HW).all()


def test_a_segment_is_assigned_as_a_whole_and_without_regard_to_the_others(random_maps):
    error_LHW, labels_HW = random_maps
    assignment_HW = assign_spaces(error_LHW, labels_HW, 0.4)
    for label in np.unique(labels_HW):
        alone_HW = assign_spaces(error_LHW, np.where(labels_HW == label, 1, 0), 0.4)
        assert set(assignment_HW[labels_HW == label]) == set(alone_HW[labels_HW == label])
        assert len(set(assignment_HW[labels_HW == label])) == 1


def test_half_precision_maps_are_summed_without_losing_precision():
    error_LHW = np.full((1, 300, 300), 0.25, np.float16)
    assert segment_means(error_LHW, np.zeros((300, 300), np.uint8))[1].tolist() == [[0.25]]


@pytest.mark.parametrize(
    ("error", "labels", "threshold", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4), int), 0.1, r"\[L, H, W\].*got shape \[4, 4\]"),
        (np.zeros((0, 4, 4)), np.zeros((4, 4), int), 0.1, "1 to 256 spaces"),
        (np.zeros((2, 0, 4)), np.zeros((0, 4), int), 0.1, "at least one pixel"),
        (np.zeros((257, 1, 1)), np.zeros((1, 1), int), 0.1, "1 to 256 spaces"),
        (np.zeros((2, 4, 5)), np.zeros((5, 4), int), 0.1, r"\[4, 5\], got shape \[5, 4\]"),
        (np.zeros((2, 4, 4), np.uint16), np.zeros((4, 4), int), 0.1, "got uint16 and int64"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4)), 0.1, "got float64 and float64"),
        (np.stack([np.zeros((4, 4)), np.full((4, 4), np.nan)]), np.zeros((4, 4), int), 0.1, r"spaces \[1\]"),
        (np.full((1, 4, 4), np.inf), np.zeros((4, 4), int), 0.1, "must be finite"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4), int), -0.1, "cannot be -0.1"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4), int), float("nan"), "cannot be nan"),
    ],
)
def test_wrong_input_is_refused_with_what_was_wanted(error, labels, threshold, message):
    with pytest.raises(ValueError, match=message):
        assign_spaces(error, labels, threshold)


def golden_maps(golden: np.lib.npyio.NpzFile) -> np.ndarray:
    if "inv_W+" in golden:
        return np.stack([golden[f"inv_{space}"][0, 0] for space in SPACES])
    return np.stack([golden[f"inv_x4096_{space}"][0, 0].astype(np.float32) / 4096 for space in SPACES])


@pytest.mark.parametrize("name", ["refine_a", "refine_b"])
def test_assignments_equal_the_published_code_at_every_threshold_and_at_the_tie(shared, name):
    with np.load(shared / "golden/2_sam" / f"{name}.npz", allow_pickle=False) as golden:
        error_LHW, labels_HW = golden_maps(golden), golden["seg"]
        mean_KL = segment_means(error_LHW, labels_HW)[1]
        np.testing.assert_allclose(mean_KL, golden["segment_means_Wp_F4_F6_F8_F10"], rtol=1e-6)
        for tau, label_HW in zip(golden["taus"], golden["label_idx_F10_F8_F6_F4_Wp"], strict=True):
            np.testing.assert_array_equal(assign_spaces(error_LHW, labels_HW, float(tau)), 4 - label_HW)
