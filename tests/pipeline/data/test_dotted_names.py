"""Dots in names that merge pictures are told from those of members that belong together."""

import pytest

from pipeline.data.dotted_names import dotted_names
from tests.infra.tars import scan, tar


def told(*names):
    return dotted_names(scan(tar(*((name, b"1") for name in names))).samples)


def test_pictures_that_a_dot_merges_are_counted_with_the_rule_and_a_remedy():
    text = told(
        "22.05.png", "22.06.png", "2023.01.01_a.jpg", "2023.01.02_b.jpg", "./235 Track 2.0 (Clean).jpg", "cat.orig.jpg"
    )
    assert text.startswith("6 pictures have a dot before their extension, and a key ends at the first dot of a name")
    assert "members of 4 samples ('22.05.png' and '22.06.png' of '22')" in text
    assert "rename them" in text


@pytest.mark.parametrize(
    "suffixes",
    [
        ["jpg", "json", "txt"],
        ["jpg", "seg.png"],
        ["image.jpg"],
        ["rgb.png", "depth.png"],
    ],
)
def test_members_that_every_sample_has_are_intended(suffixes):
    assert told(*(f"{key}.{suffix}" for key in "abc" for suffix in suffixes)) is None


def test_a_mask_that_only_some_samples_have_is_intended():
    assert told("a.png", "a.occluder.png", "b.png", "c.png", "d.png") is None
