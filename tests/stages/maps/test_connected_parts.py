"""Connected parts of segments."""

import numpy as np

from stages.maps.connected_parts import connected_parts


def test_parts_of_one_label_that_do_not_touch_get_numbers_of_their_own():
    labels_HW = np.array([[7, -3, 7], [7, -3, 0], [-3, 0, 7]], dtype=np.int32)
    parts_HW = connected_parts(labels_HW)
    assert parts_HW.dtype == np.int32
    assert parts_HW[0, 0] == parts_HW[1, 0]
    assert parts_HW[0, 1] == parts_HW[2, 0]  # corners connect
    assert parts_HW[1, 2] == parts_HW[2, 1]
    assert len({parts_HW[0, 0], parts_HW[0, 2], parts_HW[2, 2], parts_HW[0, 1], parts_HW[1, 2]}) == 5
    assert sorted(np.unique(parts_HW)) == list(range(5))


def test_labels_are_only_split():
    labels_HW = np.random.default_rng(0).integers(-2, 3, (20, 30)).astype(np.int32)
    parts_HW = connected_parts(labels_HW)
    assert all(len(np.unique(labels_HW[parts_HW == part])) == 1 for part in np.unique(parts_HW))


def test_connected_labels_stay_whole():
    assert not connected_parts(np.full((3, 4), 7, np.int32)).any()
