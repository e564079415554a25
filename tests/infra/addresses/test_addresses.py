"""What an input address names, on this machine and in object storage."""

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from infra.addresses.addresses import InputAddress, anchored
from infra.errors import NotFoundError, StoreError
from infra.stores.s3 import S3Options, S3Store
from tests.infra.conftest import BUCKET

OPTIONS = S3Options(attempts=2)


@pytest.fixture(params=["folder", "ministack", "rclone"])
def place(request, tmp_path, use_server):
    """A function that puts objects, and the address they are below, without the last slash."""
    if request.param == "folder":

        def put(*names):
            for name in names:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(b"x")
            return str(tmp_path)

        return put
    use_server(request.getfixturevalue(f"{request.param}_bucket"))
    prefix = uuid.uuid4().hex

    def put(*names):
        store = S3Store(BUCKET, prefix, OPTIONS)
        for name in names:
            store.write(name, b"x")
        return f"s3://{BUCKET}/{prefix}"

    return put


def names(address):
    found = InputAddress.parse(address).find(OPTIONS)
    for entry in found.entries:
        assert found.store.read(entry.name) == b"x" * entry.size
    return [entry.name for entry in found.entries]


def test_a_folder_stands_for_its_tars_with_and_without_a_slash(place):
    top = place("shards/a.tar", "shards/b.TAR", "shards/notes.txt", "shards/deep/c.tar", "shardsb.tar", "shards/.d.tar")
    for address in (f"{top}/shards", f"{top}/shards/"):
        assert names(address) == ["a.tar", "b.TAR"]


def test_a_file_is_itself(place):
    top = place("shards/a.tar", "shards/a.tar.bak", "shards/b")
    assert names(f"{top}/shards/a.tar") == ["a.tar"]
    assert names(f"{top}/shards/b") == ["b"]


def test_a_name_that_exists_as_it_is_written_is_not_a_pattern(place):
    top = place("cars [2019]/a.tar", "cars 2/a.tar", "set{a}/b.tar", "seta/b.tar", "what?/c.tar", "whats/c.tar")
    for name in ("cars [2019]/a.tar", "set{a}/b.tar", "what?/c.tar"):
        found = InputAddress.parse(f"{top}/{name}").find(OPTIONS)
        assert found.store.url.endswith(name.rpartition("/")[0])
        assert names(f"{top}/{name}") == [name.rpartition("/")[2]]
        assert names(f"{top}/{name.rpartition('/')[0]}") == [name.rpartition("/")[2]]
        assert names(f"{top}/{name.rpartition('/')[0]}/*.tar") == [name.rpartition("/")[2]]
    assert names(f"{top}/cars [12]/a.tar") == ["cars 2/a.tar"]
    assert names(f"{top}/what[?]/*.tar") == ["c.tar"]


def test_special_characters_are_written_in_brackets(place):
    top = place("[1]/a.tar", "1/a.tar", "b{x,y}-1.tar", "b{x,y}-2.tar", "bx-1.tar")
    assert names(f"{top}/[[]1[]]/*.tar") == ["a.tar"]
    assert names(f"{top}/b[{{]x[,]y[}}]-*.tar") == ["b{x,y}-1.tar", "b{x,y}-2.tar"]


def test_patterns_find_objects_once_and_sorted(place):
    top = place("train/b.tar", "train/a.tar", "train/a.txt", "val/a.tar", "val/deep/c.tar", "top.tar", ".hid/x.tar")
    assert names(f"{top}/{{val,train}}/*.tar") == ["train/a.tar", "train/b.tar", "val/a.tar"]
    assert names(f"{top}/{{train/*,train/a*}}") == ["train/a.tar", "train/a.txt", "train/b.tar"]
    assert names(f"{top}/*/a.tar") == ["train/a.tar", "val/a.tar"]
    assert names(f"{top}/t*/") == ["train/a.tar", "train/b.tar"]
    assert names(f"{top}/{{val/a.tar,top.tar}}") == ["top.tar", "val/a.tar"]
    assert names(f"{top}/**/*.tar") == ["top.tar", "train/a.tar", "train/b.tar", "val/a.tar", "val/deep/c.tar"]
    assert names(f"{top}/{{val,train}}") == ["train/a.tar", "train/b.tar", "val/a.tar"]
    assert names(f"{top}/.hid/*.tar") == ["x.tar"]


def test_what_is_asked_for_by_name_and_missing_is_an_error(place):
    top = place("train/a.tar", "train/b.tar")
    for address in ("train/{a,b,c}.tar", "{train,val}/*.tar"):
        with pytest.raises(NotFoundError, match=r"1 named shards, the first is '(c.tar|train/c.tar|val/?)'"):
            names(f"{top}/{address}")
    with pytest.raises(NotFoundError, match=r"no (file|object) or folder .*train/c.tar"):
        names(f"{top}/train/c.tar")


def test_an_address_that_finds_nothing_says_what_may_be_meant(place):
    top = place("cars/one/a.tar", "cars/two/b.tar", "cars/notes.txt")
    for address in (f"{top}/cars", f"{top}/cars/"):
        with pytest.raises(
            NotFoundError, match=r"2 folders, the first is 'one/?': name one of them, or write \*\*/\*\.tar"
        ):
            names(address)
    with pytest.raises(NotFoundError, match="no shards"):
        names(f"{top}/cars/z*.tar")


@pytest.mark.parametrize("kind", ["ministack", "rclone"])
def test_the_beginning_of_names_gets_a_hint(kind, use_server, request):
    use_server(request.getfixturevalue(f"{kind}_bucket"))
    prefix = uuid.uuid4().hex
    for name in ("cars/a.tar", "carsten.tar"):
        S3Store(BUCKET, prefix, OPTIONS).write(name, b"x")
    with pytest.raises(NotFoundError, match=rf"write s3://{BUCKET}/{prefix}/cars/ or s3://{BUCKET}/{prefix}/car\*"):
        names(f"s3://{BUCKET}/{prefix}/car")


def test_keys_with_empty_parts_are_read(use_server, ministack_bucket):
    use_server(ministack_bucket)
    prefix = uuid.uuid4().hex
    store = S3Store(BUCKET, "", OPTIONS)
    for key in (f"{prefix}/cars//0.tar", f"/{prefix}/1.tar", f"{prefix}/a//b//2.tar"):
        store._api.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert names(f"s3://{BUCKET}/{prefix}/cars//*.tar") == ["0.tar"]
    assert names(f"s3://{BUCKET}/{prefix}/cars//0.tar") == ["0.tar"]
    assert names(f"s3://{BUCKET}/{prefix}/cars//") == ["0.tar"]
    assert names(f"s3://{BUCKET}//{prefix}/1.tar") == ["1.tar"]
    assert names(f"s3://{BUCKET}//{prefix}/*.tar") == ["1.tar"]
    assert names(f"s3://{BUCKET}/{prefix}/**/*.tar") == ["a//b//2.tar", "cars//0.tar"]


def test_an_empty_object_named_like_a_folder_is_a_marker_of_it(use_server, ministack_bucket):
    use_server(ministack_bucket)
    prefix = uuid.uuid4().hex
    store = S3Store(BUCKET, prefix, OPTIONS)
    for key, data in (("cars", b""), ("cars/", b""), ("cars/0.tar", b"x"), ("empty.tar", b"")):
        store._api.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=data)
    for address in ("cars", "cars/", "cars/*.tar"):
        assert names(f"s3://{BUCKET}/{prefix}/{address}") == ["0.tar"]
    assert names(f"s3://{BUCKET}/{prefix}/empty.tar") == ["empty.tar"]


@pytest.mark.parametrize("name", ["a b.tar", "a+b%20&c=d.tar", "é ü 漢.tar", "#1.tar", "~a.tar", "a'\"b.tar"])
def test_any_name_is_found_and_read(place, name):
    top = place(f"in/{name}")
    assert names(f"{top}/in/*.tar") == names(f"{top}/in/{name}") == [name]


def test_a_whole_bucket_is_a_folder(use_server, ministack):
    use_server(ministack)
    bucket = ministack.make_bucket(f"whole-{uuid.uuid4().hex}")
    S3Store(bucket, "", OPTIONS).write("a.tar", b"x")
    for address in (f"s3://{bucket}", f"S3://{bucket}/", f"s3://{bucket}/*.tar", f"s3://{bucket}/a.tar"):
        assert names(address) == ["a.tar"]


def test_sixteen_folders_of_one_store_are_listed_once_each(place):
    folders = [f"part-{number:02d}" for number in range(16)]
    top = place(*(f"{folder}/{number}.tar" for folder in folders for number in range(4)), "other/x.tar")
    assert len(names(f"{top}/part-{{00..15}}/*.tar")) == 64
    assert len(names(f"{top}/part-*/*.tar")) == 64


# ---- this machine


def test_relative_addresses_are_anchored_at_a_folder_whose_name_is_not_a_pattern(tmp_path):
    folder = tmp_path / "set [1] {a,b} ?"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "a.tar").write_bytes(b"x")
    for address in ("shards", "shards/", "./shards/*.tar", "shards/a.tar", "../*/shards/a.tar", "shards/../shards/"):
        assert names(anchored(address, str(folder)))[0].endswith("a.tar")
    assert anchored("s3://b/k", "/x") == "s3://b/k"
    assert anchored("/abs/*.tar", "/x") == "/abs/*.tar"
    assert anchored("file:///abs/*.tar", "/x") == "file:///abs/*.tar"


def test_file_addresses_are_paths_whose_percent_codes_are_not_patterns(tmp_path):
    (tmp_path / "a [b]").mkdir()
    (tmp_path / "a [b]" / "a.tar").write_bytes(b"x")
    (tmp_path / "a b").mkdir()
    for start in ("file://", "file:", "FILE://localhost"):
        assert names(f"{start}{tmp_path}/a%20%5Bb%5D/*.tar") == ["a.tar"]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "names shards"),
        ("gs://bucket/a", "S3-compatible"),
        ("https://host/a.tar", "S3-compatible"),
        ("file://host/a", "file:///FOLDER"),
        ("s3://", "exact name"),
        ("s3:///a", "exact name"),
        ("s3://*/a.tar", "exact name"),
        ("s3://b{0..3}/a.tar", "exact name"),
        ("/data/\0", "names shards"),
    ],
)
def test_an_address_of_no_place_is_refused(address, says):
    with pytest.raises(StoreError, match=says):
        InputAddress.parse(address)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3:/bucket/a", "begins with s3://"),
        ("s3:bucket/a", "begins with s3://"),
        (r"C:\data\*.tar", "Windows path"),
        (r"\\server\share\a.tar", "Windows path"),
        ("$HOME/shards", "not expanded"),
        ("${DATA}/a.tar", "not expanded"),
        ("shards/a.tar ", "begins or ends with a space"),
        (" s3://bucket/a.tar", "begins or ends with a space"),
        ("~nobody-of-this-name/a.tar", "no file or folder"),
        ("{a.tar", "unmatched brace"),
        ("{0..9999999999}.tar", "more than 1,000,000 names"),
        ("[z-a].tar", "not a valid pattern"),
        ("*/../a.tar", "after a pattern"),
    ],
)
def test_an_address_that_names_nothing_says_why(tmp_path, address, says):
    with pytest.raises(StoreError, match=says):
        names(anchored(address, str(tmp_path)))


def test_links_are_followed_as_in_a_shell(tmp_path):
    for name in ("in/a.tar", "in/deep/b.tar", "other/c.tar", "other/deep/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "in/link").symlink_to("../other")
    (tmp_path / "in/loop").symlink_to(".")
    (tmp_path / "in/e.tar").symlink_to("../other/c.tar")
    assert names(f"{tmp_path}/in") == ["a.tar", "e.tar"]
    assert names(f"{tmp_path}/in/link/") == ["c.tar"]
    assert names(f"{tmp_path}/in/l*/c.tar") == ["link/c.tar"]
    assert names(f"{tmp_path}/in/**/*.tar") == ["a.tar", "deep/b.tar", "e.tar", "link/c.tar"]
    assert names(f"{tmp_path}/in/loop/loop/*.tar") == ["a.tar", "e.tar"]


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    (tmp_path / "self.tar").symlink_to("self.tar")
    found = InputAddress.parse(f"{tmp_path}/").find(OPTIONS)
    assert [entry.name for entry in found.entries] == ["a.tar"]
    assert "2 links lead nowhere, the first is 'gone.tar'" in found.warnings[0]
    for name in ("gone.tar", "self.tar"):
        with pytest.raises(NotFoundError, match=f"{name} is a link to .*, which does not exist"):
            names(f"{tmp_path}/{name}")


def test_what_is_not_a_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "a.tar").write_bytes(b"x")
    assert names(f"{tmp_path}/*.tar") == ["a.tar"]
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        names(f"{tmp_path}/pipe.tar")


def test_folders_that_match_where_files_are_wanted_get_a_hint(tmp_path):
    (tmp_path / "train-1").mkdir()
    with pytest.raises(NotFoundError, match=r"matches 1 folders.*end it with /"):
        names(f"{tmp_path}/train*")


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).write_bytes(b"x")
    with pytest.raises(StoreError, match="not valid UTF-8; rename"):
        names(f"{tmp_path}/*.tar")


READ = """
import os, sys
from infra.addresses.addresses import InputAddress
from infra.stores.s3 import S3Options
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
for address in sys.argv[1:]:
    try:
        found = InputAddress.parse(address).find(S3Options())
        print(len(found.entries), *found.warnings)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder():
    """An empty folder that every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_folders_that_a_pattern_cannot_reach_need_not_be_readable(open_folder):
    tmp_path = open_folder
    for name in ("volume/a.tar", "volume/b.tar", "volume/sub/c.tar", "closed/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "volume/lost+found").mkdir()
    (tmp_path / "volume/lost+found").chmod(0)
    (tmp_path / "closed").chmod(0o711)
    addresses = [
        "volume",
        "volume/*.tar",
        "volume/{a,b}.tar",
        "volume/a.tar",
        "volume/**/*.tar",
        "closed/d.tar",
        "closed/",
    ]
    try:
        said = subprocess.run(
            [sys.executable, "-c", READ, *(f"{tmp_path}/{address}" for address in addresses)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    finally:
        (tmp_path / "volume/lost+found").chmod(0o755)
        (tmp_path / "closed").chmod(0o755)
    assert said[:4] == ["2", "2", "2", "1"]
    assert said[4].startswith("3 ")
    assert "'lost+found'; passed over" in said[4]
    assert said[5] == "1"
    assert said[6].startswith("StoreError cannot list")


def test_thousand_shards_named_one_by_one_are_looked_at_one_by_one(tmp_path, monkeypatch):
    for number in range(1000):
        (tmp_path / f"{number:03d}.tar").write_bytes(b"x")
    scanned = []
    monkeypatch.setattr(os, "scandir", scanned.append)
    for number in range(1000):
        assert len(InputAddress.parse(f"{tmp_path}/{number:03d}.tar").find(OPTIONS).entries) == 1
    assert scanned == []
