"""Input other than shards is refused before any work; partly readable input is not."""

import gzip

import pytest

from infra.addresses.addresses import InputAddress
from infra.errors import NotFoundError
from infra.stores.storage import S3Options, open_store
from pipeline.data.inventory import ListedShard
from pipeline.data.shard_check import check_shards
from pipeline.data.stores import Input
from pipeline.errors import ConfigError
from tests import tiny
from tests.infra.tars import tar

TAR = tar(("a.png", b"1"))
PICTURE = tiny.picture(1)


def check(folder, files, *, others=False):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    store = open_store(str(folder))
    check_shards([ListedShard(0, entry) for entry in store.list()], (store,), others=others)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": PICTURE, "b.png": PICTURE}, "a.png is a PNG picture, not a shard"),
        ({"a.tar": TAR, "a.parquet": b"PAR1" + bytes(600)}, "a.parquet is a parquet file, not a shard"),
        ({"a.zip": b"PK\x03\x04" + bytes(600)}, "a.zip is a zip archive, not a shard"),
        ({"a": b"<html>404</html>"}, "a is an HTML or XML page"),
        ({"a.tar": b"<html>404</html>", "b.tar": b""}, "none of the 2 files is a plain tar"),
        ({"a.tgz": gzip.compress(TAR), "b.tar": gzip.compress(TAR)}, "a.tgz is compressed with gzip; samples cannot"),
        ({"a.tar": b"", "b.tar": b""}, "a.tar is empty"),
    ],
)
def test_what_is_not_a_shard_is_refused_with_what_it_is(tmp_path, files, said):
    with pytest.raises(ConfigError, match=r"^input: ") as caught:
        check(tmp_path, files)
    assert said in str(caught.value)


def test_the_refusal_of_pictures_says_how_shards_are_made(tmp_path):
    with pytest.raises(ConfigError, match=r"tar --sort=name -cf shards/000000.tar -C PICTURES \."):
        check(tmp_path, {"a.jpg": PICTURE})


@pytest.mark.parametrize(
    "files",
    [
        {"a.tar": gzip.compress(TAR), "b.tar": TAR},
        {"a.tar.gz": gzip.compress(TAR), "b.tar": TAR},
        {"a.tar": b"<html>", "b.TAR": TAR},
        {"a.tar": b"", "b.tar": tar()},
        {"shard-without-a-name": TAR},
        {"a.tar": b"\xff" * 512 + TAR},  # damaged at its beginning
        {},
    ],
)
def test_an_input_of_which_a_part_may_be_read_is_not_refused(tmp_path, files):
    check(tmp_path, files)


def test_one_new_file_that_is_not_a_tar_does_not_stop_a_run_over_known_shards(tmp_path):
    check(tmp_path, {"a.tar": gzip.compress(TAR)}, others=True)


@pytest.mark.parametrize("name", ["a.tar", "a"])
def test_one_file_that_cannot_be_read_does_not_stop_a_run_over_others(tmp_path, name):
    for file in (name, "b.tar"):
        (tmp_path / file).write_bytes(TAR)
    store = open_store(str(tmp_path))
    listed = [ListedShard(0, entry) for entry in store.list()]
    (tmp_path / name).unlink()  # also without the right to read it, which root always has
    check_shards(listed, (store,), others=False)
    with pytest.raises(NotFoundError, match=f"cannot open .*/{name}"):
        check_shards([one for one in listed if one.entry.name == name], (store,), others=False)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("1.jpg", PICTURE, "the first is '1.jpg', a PNG picture; put the pictures into tars, as with `tar --sort=name"),
        ("a.tgz", b"\x1f\x8b" + bytes(99), "the first is 'a.tgz', compressed with gzip; samples cannot be read"),
        ("a.zip", b"PK\x03\x04" + bytes(99), "the first is 'a.zip', a zip archive; give a pattern"),
        ("shard", bytes(10240), "the first is 'shard', a tar of another name; end the address with /*"),
        ("noise", b"\x01\x02" * 99, "the first is 'noise'; give a pattern"),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_without_tars_is_refused_with_what_it_holds_instead(tmp_path, name, content, said, end):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / name).write_bytes(content)
    address = InputAddress.parse(f"{tmp_path}/input{end}")
    with pytest.raises(ConfigError) as caught:
        _ = Input(address, S3Options()).found
    assert f"no shards in {tmp_path}/input; " in str(caught.value)
    assert f"it has 1 other files, {said}" in str(caught.value)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_run_and_plan_refuse_a_folder_of_pictures_and_write_nothing(invertmill, fresh, command):
    (fresh.folder / "photos").mkdir()
    (fresh.folder / "photos/1.jpg").write_bytes(PICTURE)
    code, output, errors = invertmill(command, fresh.folder / "run.yaml", "--set", "input=photos/*.jpg")
    assert (code, output) == (2, "")
    assert f"input: {fresh.folder / 'photos'}/1.jpg is a PNG picture, not a shard" in errors
    assert not list((fresh.folder / "store").rglob("*.json"))
