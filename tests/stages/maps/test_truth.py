"""Maps against known occluders: values worked by hand."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from stages.base.errors import BadSampleError
from stages.base.stage import Sample
from stages.images.orientation import Geometry
from stages.maps.region import Region
from stages.maps.truth import auroc, average_precision, known_occluder
from tests.stages.pictures import ORIENTED, encoded, sideways

OCCLUDED_HW = np.array([[True, False], [True, False]])


def test_average_precision_is_the_precision_at_each_recall():
    error_HW = np.array([[0.9, 0.7], [0.5, 0.1]])  # found in the order yes, no, yes, no
    assert average_precision(error_HW, OCCLUDED_HW) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert auroc(error_HW, OCCLUDED_HW) == pytest.approx(3 / 4)


def test_both_figures_are_scikit_learns_ties_included():
    random = np.random.default_rng(0)
    occluded_HW = random.random((40, 50)) < 0.1
    for error_HW in (random.random((40, 50), np.float32) + 0.2 * occluded_HW, random.integers(0, 5, (40, 50)) / 5):
        wanted = roc_auc_score(occluded_HW.ravel(), error_HW.ravel())
        assert auroc(error_HW, occluded_HW) == pytest.approx(wanted, abs=1e-12)
        for error in (error_HW, error_HW.astype(np.float16)):
            wanted = average_precision_score(occluded_HW.ravel(), error.ravel())
            assert average_precision(error, occluded_HW) == wanted, "to the last bit: it is recorded"


def test_a_map_that_says_nothing_has_the_average_precision_of_chance():
    occluded_HW = np.array([[True, False, False, False, False]])
    assert average_precision(np.full((1, 5), 0.3), occluded_HW) == pytest.approx(1 / 5)


@pytest.mark.parametrize("occluded_HW", [None, np.zeros((2, 2), bool), np.ones((2, 2), bool)])
def test_without_both_kinds_of_pixels_nothing_is_known(occluded_HW):
    assert average_precision(np.ones((2, 2)), occluded_HW) is None
    assert auroc(np.ones((2, 2)), occluded_HW) is None


# --- the mask in the shard --------------------------------------------------------------------------------------------

MASK_HW = np.zeros((24, 36), np.uint8)
MASK_HW[2:9, 3:20] = 255
REGION = Region(height=24, width=36)


def occluded(data: bytes, picture: Geometry) -> np.ndarray:
    sample = Sample("cat", "shard", {"mask.png": data})
    found_HW = known_occluder(sample, "mask.png", picture, REGION)
    assert found_HW is not None
    return found_HW


@pytest.mark.parametrize("orientation", ORIENTED)
def test_a_mask_is_turned_by_its_own_tag_or_as_its_picture_or_is_upright_already(orientation):
    stored, tag = sideways(MASK_HW, orientation)
    picture = Geometry(24, 36, orientation)
    for data in (encoded(stored, "PNG", exif=tag), encoded(stored, "TIFF", exif=tag), encoded(stored, "PNG")):
        np.testing.assert_array_equal(occluded(data, picture), MASK_HW > 0)
    for data in (encoded(stored, "PNG", exif=tag), encoded(MASK_HW, "PNG")):
        np.testing.assert_array_equal(occluded(data, Geometry(24, 36)), MASK_HW > 0)
    if orientation >= 5:
        np.testing.assert_array_equal(occluded(encoded(MASK_HW, "PNG"), picture), MASK_HW > 0)


@pytest.mark.parametrize("size", [(36, 24), (48, 72), (24, 37), (1, 1)])
def test_a_mask_of_another_size_or_aspect_than_its_picture_is_refused(size):
    with pytest.raises(BadSampleError, match=rf"cat\.mask\.png is {size[0]} x {size[1]} px, the image is 24 x 36 px"):
        occluded(encoded(np.zeros(size, np.uint8), "PNG"), Geometry(24, 36))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_is_white_where_occluded_in_every_mode(mode):
    image = Image.fromarray(MASK_HW).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(MASK_HW.astype(np.uint16) * 257)
    np.testing.assert_array_equal(occluded(encoded(image, "PNG"), Geometry(24, 36)), MASK_HW > 0)


def test_a_sample_without_the_mask_says_nothing():
    for member in (None, "mask.png"):
        assert known_occluder(Sample("cat", "shard", {}), member, Geometry(24, 36), REGION) is None
