"""Refining maps: each segment's space, and every sample that cannot have one."""

import pickle

import numpy as np
import pytest
import torch

from stages.base.errors import SettingError
from stages.base.stage import Record, Rejected, Sample
from stages.maps.region import Region
from stages.refine_maps import RefineMaps, assign_spaces
from stages.segmentation import Labels, Whole
from tests import tiny

SIDE = 8
SPACES = ("W+", "F4")
CARS = np.zeros((SIDE, SIDE), np.uint8)
CARS[:3, :3] = CARS[5:, 5:] = 1  # two cars, far apart


def stage(**changes) -> RefineMaps:
    settings = {"spaces": SPACES, "region": Region.whole(SIDE), "threshold": 0.3, "segmentation": Labels()}
    return RefineMaps(**(settings | changes))


def maps() -> np.ndarray:
    """One car is hard for W+, the other easy; their mean is hard."""
    error_LHW = np.full((2, SIDE, SIDE), 0.1, np.float16)
    error_LHW[0, :3, :3] = 0.9
    return error_LHW


def sample(key="a", error_LHW=None, labels=CARS, side=SIDE, records=None) -> Sample:
    arrays = {"error_LHW": maps() if error_LHW is None else error_LHW}
    members = {"png": tiny.picture(0, side, side), "seg.png": tiny.png(labels)}
    return Sample(key, "s.tar", members, {"predict_maps": Record(key, {}, arrays)} if records is None else records)


def run(one: RefineMaps, *samples: Sample) -> list[Record | Rejected]:
    return list(one.setup(torch.device("cpu"))(samples))


def reason(found: Record | Rejected) -> str:
    assert isinstance(found, Rejected)
    return found.reason


def test_without_connected_components_equal_labels_share_a_space():
    (found,) = run(stage(), sample())
    assert (found.arrays["assignment_HW"] == CARS).all()  # both cars are given F4
    wanted_HW = assign_spaces(maps().astype(np.float32), CARS.astype(np.int32), 0.3)
    np.testing.assert_array_equal(found.arrays["assignment_HW"], wanted_HW)
    np.testing.assert_array_equal(found.arrays["labels_HW"], CARS)


def test_with_connected_components_two_far_cars_need_not_share_a_space():
    (found,) = run(stage(connected_components=True), sample())
    assert found.arrays["assignment_HW"][:3, :3].all()
    assert not found.arrays["assignment_HW"][3:, 3:].any()
    assert len(np.unique(found.arrays["labels_HW"])) == 3
    assert found.row["share_f4"] == pytest.approx(9 / 64)


@pytest.mark.parametrize("connected", [False, True])
def test_a_class_map_gives_listed_classes_the_first_space_whatever_is_predicted(connected):
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[2:5, 1:4], labels[6:, 6:] = 7, 7
    classes = {"classes": [7], "rest": "F4"}
    (found,) = run(stage(class_map=classes, connected_components=connected, threshold=9.0), sample(labels=labels))
    np.testing.assert_array_equal(found.arrays["assignment_HW"], labels != 7)
    with pytest.raises(SettingError, match="no space 'F9' in this run; choose among W"):
        run(stage(class_map={"classes": [7], "rest": "F9"}), sample())


@pytest.mark.parametrize(("threshold", "error"), [(0.3, 0.1), (9.0, 0.1 + 9 / 64 * 0.8)])
def test_the_predicted_error_is_that_of_the_spaces_given(threshold, error):
    (found,) = run(stage(threshold=threshold), sample())
    assert found.row["error"] == pytest.approx(error, rel=1e-3)  # all W+ at 9; at 0.3 the hard car is in F4


def broken(value: float, where=np.s_[1, 2, 2]) -> np.ndarray:
    error_LHW = maps()
    error_LHW[where] = value
    return error_LHW


def test_maps_smaller_than_the_region_are_averaged_over_segments_of_the_regions_size():
    thin = np.zeros((SIDE, SIDE), np.uint8)
    thin[:, 3] = 1  # a segment that no pixel of a map of half the size lies in alone
    error_LHW = np.full((2, SIDE // 2, SIDE // 2), 0.1, np.float16)
    error_LHW[0, :, 1] = 0.9
    (found,) = run(stage(map_side_px=SIDE // 2), sample(error_LHW=error_LHW, labels=thin))
    assert found.arrays["labels_HW"].shape == found.arrays["assignment_HW"].shape == (SIDE, SIDE)
    np.testing.assert_array_equal(found.arrays["assignment_HW"], thin)
    assert found.row["error"] == pytest.approx((6 * 0.1 + 0.9 + 0.1) / 8, rel=1e-3)  # of a row: 7 pixels W+, 1 F4


BAD = {
    "no record": (sample(records={}), "no predicted maps"),
    "no array": (sample(records={"predict_maps": Record("a")}), "no predicted maps"),
    "all zero": (sample(error_LHW=broken(0, np.s_[:])), "zero everywhere in every space"),
    "not a number": (sample(error_LHW=broken(np.nan)), "maps of F4 are not finite"),
    "infinite": (sample(error_LHW=broken(np.inf, np.s_[0])), r"maps of W\+ are not finite"),
    "other size": (sample(error_LHW=maps()[:, :4]), r"\[2, 4, 8\], but .* need \[2, 8, 8\]"),
    "other spaces": (sample(error_LHW=maps()[:1]), r"\[1, 8, 8\], but .* need \[2, 8, 8\]"),
    "unlisted class": (sample(labels=np.full((SIDE, SIDE), 9, np.uint8)), r"does not list the classes \[9\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_sample_that_cannot_be_refined_is_quarantined_alone_with_its_reason(name):
    bad, message = BAD[name]
    one = stage(segmentation=Labels(merge={0: 0, 1: 1}, strict_merge=True))
    before, found, after = run(one, sample("before"), bad, sample("after"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason(found))
    assert (before.key, found.key, after.key) == ("before", "a", "after")
    np.testing.assert_array_equal(before.arrays["assignment_HW"], after.arrays["assignment_HW"])


def test_a_space_without_any_predicted_error_is_not_a_fault_where_others_have_some():
    (found,) = run(stage(), sample(error_LHW=broken(0, np.s_[1])))
    assert isinstance(found, Record)


def test_a_stage_survives_pickling_and_an_empty_batch():
    one = stage(segmentation=Whole(), connected_components=True)
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert run(copy) == []
