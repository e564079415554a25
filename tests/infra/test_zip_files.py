"""Zips of our own are those of any tool."""

import io
import zipfile

import numpy as np
import pytest

from infra import zip_files
from infra.zip_files import write_zip

NOISE = np.random.default_rng(0).laplace(0, 20, 200_000).round().astype(np.int8).tobytes()


def test_any_reader_gets_names_and_contents_in_order():
    members = [("F4.codes.npy", NOISE), ("é.npy", b"twice " * 9), ("empty", b"")]
    with zipfile.ZipFile(io.BytesIO(write_zip(members))) as archive:
        assert archive.testzip() is None
        assert [(name, archive.read(name)) for name in archive.namelist()] == members
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_equal_members_give_equal_bytes():
    assert write_zip([("a", NOISE)]) == write_zip([("a", NOISE)])


@pytest.mark.parametrize("data", [NOISE, b"0123456789" * 20_000])
def test_noise_and_repeats_take_no_more_room_than_zipfile_gives_them(data):
    with zipfile.ZipFile(sink := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    assert len(write_zip([("a", data)])) <= 1.001 * len(sink.getvalue())


def test_what_would_be_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(zip_files, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="the member b would make a zip of more than 4 GiB"):
        write_zip([("a", b"short"), ("b", NOISE)])
