"""Members that cannot be used concern only who needs them."""

import pickle

import pytest

from stages.base.errors import BadSampleError
from stages.base.stage import Sample
from stages.images.image_member import ImageMember
from stages.images.members import Members

MEMBERS = Members({"jpg": b"picture", "txt": b"a cat"}, {"txt": "it has a second 'txt'", "json": "it lacks json"})


def test_a_member_that_cannot_be_used_is_there_but_asking_for_it_says_why():
    assert MEMBERS["jpg"] == b"picture"
    assert sorted(MEMBERS) == ["jpg", "json", "txt"]
    assert len(MEMBERS) == 3
    for extension, why in (("txt", "a second 'txt'"), ("json", "lacks json")):
        assert extension in MEMBERS
        with pytest.raises(BadSampleError, match=why):
            MEMBERS[extension]
        with pytest.raises(BadSampleError, match=why):
            MEMBERS.get(extension)


def test_a_member_that_is_not_there_is_missing_as_in_any_mapping():
    assert "png" not in MEMBERS
    assert MEMBERS.get("png") is None
    with pytest.raises(KeyError):
        MEMBERS["png"]


def test_members_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(MEMBERS)) == MEMBERS


def test_an_empty_picture_is_rejected_as_what_it_is():
    with pytest.raises(BadSampleError, match=r"^a.jpg is empty; replace it in the shard$"):
        ImageMember().picture(Sample("a", "s.tar", {"jpg": b"", "txt": b""}))
