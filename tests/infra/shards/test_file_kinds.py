"""Files that are taken for shards are named as what they are."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
from PIL import Image

from infra.shards.file_kinds import kind_of
from tests.infra.tars import tar


def picture(form):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, form)
    return sink.getvalue()


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jpg", b"1")
    return sink.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_are_told(form):
    assert kind_of(tar(("a.jpg", b"1"), form=form)[:512]).group == "tar"
    assert kind_of(tar()[:512]).group == "tar"


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_compressed_files_are_told_with_their_compression(pack, name):
    found = kind_of(pack(tar(("a.jpg", b"1")))[:512])
    assert (found.group, found.name) == ("compressed", name)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm"])
def test_pictures_are_told(form):
    assert kind_of(picture(form)[:512]).group == "picture"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (zipped()[:512], "zip"),
        (b"PAR1" + bytes(508), "parquet"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML"),
        (b'{"count": 3}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        ("Ein Text mit Ümlaut\n".encode()[:14], "text"),
    ],
)
def test_other_files_are_named(head, name):
    found = kind_of(head)
    assert found.group == "other"
    assert name in found.name


@pytest.mark.parametrize("head", [b"", b"\xff" * 512, bytes(range(1, 200))])
def test_what_is_not_known_is_not_named(head):
    assert kind_of(head) is None
