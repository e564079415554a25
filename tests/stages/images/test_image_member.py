"""Which member of a sample is its picture."""

import pickle

import numpy as np
import pytest

from stages.base.errors import BadSampleError
from stages.base.stage import Sample
from stages.images.image_member import EXTENSIONS, ImageMember, pixels_of
from stages.images.orientation import Geometry
from tests.stages.pictures import encoded, pixels


def named(*members: str, key: str = "cat", **settings) -> str:
    return ImageMember(**settings).name_in(key, dict.fromkeys(members, b""))


def refused(*members: str, key: str = "cat", **settings) -> str:
    with pytest.raises(BadSampleError) as caught:
        named(*members, key=key, **settings)
    return str(caught.value)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_member_with_a_pictures_extension_is_the_picture(extension):
    assert named("json", extension, "txt", "seg.png", "occluder.png") == extension
    assert named("json", f"image.{extension}", "txt") == f"image.{extension}"


def test_masks_and_labels_are_not_pictures_of_the_sample():
    assert named("orig.jpg", "seg.png", "occluder.png", apart=("occluder.png", "seg.png")) == "orig.jpg"
    assert "no image" in refused("seg.png", "occluder.png", apart=("occluder.png", "seg.png"))


def test_a_member_that_is_configured_is_the_picture_whatever_else_there_is():
    assert named("jpg", "png", "image.jpg", member="image.jpg") == "image.jpg"
    assert named("jpg", "raw", member="raw") == "raw"
    reason = refused("jpg", "json", member="image.jpg")
    assert reason.startswith("no image: expected the member 'image.jpg' (setting image), got jpg, json")


def test_without_a_picture_the_extensions_that_are_read_are_named():
    reason = refused("txt", "cls")
    assert f"expected a member ending in one of {', '.join(EXTENSIONS)}, got cls, txt" in reason
    assert "got no members" in refused()


def test_of_several_pictures_none_is_taken_and_the_setting_is_named():
    assert refused("jpg", "png", "seg.png") == (
        "2 members could be its image: jpg, png; choose one with the setting image"
    )


def test_pictures_that_dots_in_their_names_put_under_one_key_are_counted_and_the_rule_is_named():
    reason = refused("05.png", "06.png", "07.png", key="22")
    assert "3 members could be its image: 05.png, 06.png, 07.png" in reason
    assert "the key ends at the first dot of a name, as in webdataset, so 3 pictures share the key '22'" in reason
    assert "rename them without a dot before the extension, or choose one with the setting image" in reason


def test_the_picture_is_decoded_under_its_name_and_its_geometry_is_that_of_its_header():
    sample = Sample("cat", "shard", {"image.bmp": encoded(pixels(0), "BMP"), "txt": b"a cat"})
    np.testing.assert_array_equal(ImageMember().picture(sample).pixels_HW3, pixels(0))
    np.testing.assert_array_equal(pixels_of(sample), pixels(0))
    assert ImageMember().geometry(sample) == Geometry(24, 36)
    for look in (ImageMember().picture, ImageMember().geometry):
        with pytest.raises(BadSampleError, match=r"cat\.image\.bmp does not decode \(3 bytes\)"):
            look(Sample("cat", "shard", {"image.bmp": b"rot"}))


def test_it_is_a_setting_that_pickles_and_compares():
    member = ImageMember(member="image.jpg", apart=("seg.png",))
    assert pickle.loads(pickle.dumps(member)) == member != ImageMember()
