"""Shards are scanned, read back and written by webdataset's rules."""

import hashlib
import subprocess
import tarfile
from itertools import pairwise

import pytest
import webdataset as wds

from infra.errors import ShardError
from infra.shards.shards import RawSample, read_samples, scan_shard, split_name, write_shard
from infra.shards.tar_walk import BLOCK
from infra.stores.folder import FolderStore
from tests.infra.tars import COUNT, keys, sample, scan, sound, tar

ZERO_BLOCK = bytes(BLOCK)


@pytest.fixture
def folder(tmp_path):
    return FolderStore(tmp_path)


def test_a_sound_shard_has_all_its_samples_and_no_fault(shard):
    scanned = scan(shard)
    assert (scanned.shard, scanned.size, scanned.sha256) == ("a.tar", len(shard), hashlib.sha256(shard).hexdigest())
    assert keys(scanned) == sound(scanned) == [f"{number:04d}" for number in range(COUNT)]
    assert scanned.faults == ()
    for number, found in enumerate(scanned.samples):
        assert [member.extension for member in found.members] == ["jpg", "json"]
        jpg = found.members[0]
        assert shard[jpg.offset : jpg.offset + jpg.size] == sample(number)["jpg"]


def test_samples_lie_side_by_side(shard):
    samples = scan(shard).samples
    assert samples[0].start == 0
    assert all(before.stop == after.start for before, after in pairwise(samples))


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_what_is_written(shard, tmp_path):
    read = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [(found["__key__"], found["jpg"], found["json"]) for found in read] == [
        (one["__key__"], one["jpg"], one["json"].encode()) for one in map(sample, range(COUNT))
    ]


def test_what_webdataset_writes_is_scanned(tmp_path):
    with wds.TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:
        for number in range(COUNT):
            writer.write({**sample(number), "json": sample(number)["json"].encode()})
    data = (tmp_path / "w.tar").read_bytes()
    assert sound(scan(data)) == [f"{number:04d}" for number in range(COUNT)]
    assert scan(data).faults == ()


def test_what_gnu_tar_writes_is_scanned(tmp_path):
    names = ["a.jpg", "a.txt", f"{'long-' * 40}b.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    for form in ("gnu", "posix", "ustar"):
        wanted = names if form != "ustar" else names[:2]
        subprocess.run(["tar", f"--format={form}", "-cf", "g.tar", *wanted], cwd=tmp_path, check=True)
        scanned = scan((tmp_path / "g.tar").read_bytes())
        assert scanned.faults == ()
        assert [(found.key, found.fault) for found in scanned.samples] == [
            (key, None) for key in (["a", f"{'long-' * 40}b"] if form != "ustar" else ["a"])
        ]


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, map(sample, range(3)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_shard_that_could_not_be_written_leaves_nothing(tmp_path):
    def broken():
        yield sample(0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_shard(tmp_path / "a.tar", broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "extension"), [("a.b", "jpg"), ("a", "JPG"), ("", "jpg"), ("a", "x/y")])
def test_names_that_webdataset_would_read_otherwise_are_not_written(tmp_path, key, extension):
    with pytest.raises(ShardError, match="would be read back"):
        write_shard(tmp_path / "a.tar", [{"__key__": key, extension: b"1"}])


def test_of_samples_with_one_key_the_first_is_kept():
    data = tar(("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.txt", b"4"), ("a/b.jpg", b"5"))
    scanned = scan(data)
    assert keys(scanned) == ["a", "b", "a", "a/b"]
    assert [bool(found.fault) for found in scanned.samples] == [False, False, True, False]
    assert "duplicate key 'a': the first is at byte 0, this one at byte 2048" in scanned.samples[2].fault


def test_a_second_member_of_one_extension_concerns_only_who_needs_that_extension():
    scanned = scan(tar(("a.jpg", b"1"), ("a.txt", b"1"), ("a.TXT", b"2"), ("b.jpg", b"3")))
    assert sound(scanned) == ["b"]
    assert scanned.samples[0].fault is None
    assert list(scanned.samples[0].unusable) == ["txt"]
    assert "second 'txt', at byte 2048 after that at byte 1024" in scanned.samples[0].unusable["txt"]


def test_an_empty_member_is_a_member():
    scanned = scan(tar(("a.jpg", b"1"), ("a.txt", b""), ("b.jpg", b"3")))
    assert sound(scanned) == ["a", "b"]
    assert [member.size for member in scanned.samples[0].members] == [1, 0]


def test_members_of_one_key_are_one_sample_wherever_they_lie():
    for names in (["a.json", "b.json", "a.jpg", "b.jpg"], ["a.jpg", "b.jpg", "a.json", "b.json"]):
        scanned = scan(tar(*((name, name.encode()) for name in names)))
        assert keys(scanned) == sound(scanned) == ["a", "b"]
        assert all({member.extension for member in found.members} == {"jpg", "json"} for found in scanned.samples)
        assert scanned.faults == ()
        (note,) = scanned.notes
        assert note.startswith("members of 2 samples are not adjacent")
        assert "tar --sort=name" in note


def test_repetitions_of_samples_whose_members_are_not_adjacent_are_duplicates_each_counted_once():
    names = ["a.json", "b.json", "a.jpg", "b.jpg"]
    scanned = scan(tar(*((name, b"1") for name in 2 * names)))
    assert keys(scanned) == ["a", "b", "a", "b"]
    assert [found.repeated for found in scanned.samples] == [False, False, True, True]
    assert all("duplicate key" in found.fault for found in scanned.samples[2:])


def test_members_may_be_optional_in_a_sound_shard():
    assert len(sound(scan(tar(("a.jpg", b"1"), ("a.txt", b"1"), ("b.jpg", b"1"), ("c.jpg", b"1"))))) == 3


def test_folders_and_metadata_are_passed_over_as_webdataset_does():
    data = tar(
        ("d", "folder"),
        ("__meta__", b"1"),
        ("__MACOSX/d/a.jpg", b"1"),
        ("d/._a.jpg", b"1"),
        ("d/a.jpg", b"1"),
        ("d/x", "folder"),
        ("d/a.txt", b"2"),
        (".DS_Store", b"1"),
    )
    scanned = scan(data)
    assert keys(scanned) == sound(scanned) == ["d/a"]
    assert [member.extension for member in scanned.samples[0].members] == ["jpg", "txt"]
    assert scanned.faults == ()
    assert scanned.passed_over == {
        "folders": 2,
        "hidden files": 1,
        "macOS metadata files": 2,
        "metadata files (__NAME__)": 1,
    }


def test_links_and_files_without_extension_are_counted_and_no_fault():
    scanned = scan(tar(("a.jpg", b"1"), ("b.jpg", "symlink"), ("c.jpg", "link"), ("README", b"1")))
    assert sound(scanned) == ["a"]
    assert scanned.faults == ()
    assert scanned.passed_over == {"links": 2, "files without an extension": 1}


def test_pictures_without_an_extension_are_a_fault():
    scanned = scan(tar(("a.jpg", b"1"), ("0001", b"\xff\xd8\xff\xe0"), ("0002", b"\x89PNG\r\n\x1a\n")))
    (fault,) = scanned.faults
    assert fault.kind == "without an extension"
    assert fault.message.startswith("2 pictures without an extension belong to no sample; name the files")


def test_a_link_in_place_of_a_member_says_what_to_do_to_who_needs_it():
    (found,) = scan(tar(("a.jpg", "symlink"), ("a.json", b"{}"))).samples
    assert found.fault is None
    assert "tar --dereference" in found.unusable["jpg"]


def test_a_shard_of_links_alone_holds_no_samples_and_says_why():
    (fault,) = scan(tar(("a.jpg", "symlink"), ("b.jpg", "symlink"))).faults
    assert (fault.kind, "only 2 links" in fault.message) == ("without samples", True)
    assert "tar --dereference" in fault.message


def test_keys_end_at_the_first_dot_of_the_base_name():
    assert split_name("d.x/a.b.JPG") == ("d.x/a", "b.jpg")
    assert split_name("./a.jpg") == ("./a", "jpg")
    assert split_name("README") is None


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_survive(form):
    name = f"{'d' * 120}/{'é' * 60}"
    scanned = scan(tar((f"{name}.jpg", b"1"), ("b.jpg", b"2"), form=form))
    assert sound(scanned) == [name, "b"]
    assert scanned.samples[0].stop == scanned.samples[1].start


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_name_that_is_not_utf8_stands_under_an_escaped_key(form, folder):
    data = tar(("a\udce9.jpg", b"1"), ("\udc83\\.jpg", b"2"), form=form)  # Latin-1, Shift-JIS
    folder.write("f.tar", data)
    scanned = scan(data)
    assert keys(scanned) == sound(scanned) == ["a\\xe9", "\\x83\\"]
    assert [raw.members["jpg"] for raw in read_samples(folder, "f.tar", scanned.samples)] == [b"1", b"2"]


def test_an_escaped_key_that_another_sample_spells_out_is_a_duplicate():
    scanned = scan(tar(("a\udce9.jpg", b"1"), ("a\\xe9.txt", b"2"), form=tarfile.GNU_FORMAT))
    assert keys(scanned) == ["a\\xe9", "a\\xe9"]
    assert [found.repeated for found in scanned.samples] == [False, True]


def test_a_large_size_in_a_pax_header_is_used():
    info = tarfile.TarInfo("a.jpg")
    info.size = 3
    info.pax_headers = {"size": "3", "comment": "x" * 600}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"abc".ljust(BLOCK, b"\0") + 2 * ZERO_BLOCK
    scanned = scan(data)
    assert scanned.samples[0].members[0].size == 3
    assert scanned.faults == ()


# Reading back


def test_samples_are_read_back_in_the_order_asked_for(folder, shard):
    samples = scan(shard).samples
    chosen = [samples[4], samples[0], samples[1], samples[5]]
    assert read_samples(folder, "a.tar", chosen) == [
        RawSample(one["__key__"], {"jpg": one["jpg"], "json": one["json"].encode()})
        for one in map(sample, (4, 0, 1, 5))
    ]
    assert read_samples(folder, "a.tar", []) == []


def test_neighbours_come_by_one_ranged_read(folder, shard, monkeypatch):
    ranges = []
    read = folder.read
    monkeypatch.setattr(folder, "read", lambda *arguments: ranges.append(arguments) or read(*arguments))
    samples = scan(shard).samples
    read_samples(folder, "a.tar", samples[1:5])
    assert ranges == [("a.tar", samples[1].start, samples[4].stop, None)]


def test_samples_around_damage_are_read_back(folder, shard):
    start = scan(shard).samples[2].start
    folder.write("b.tar", shard[:start] + b"\xff" * BLOCK + shard[start + BLOCK :])
    with folder.open("b.tar") as stream:
        samples = [found for found in scan_shard(stream, "b.tar", len(shard)).samples if not found.fault]
    assert [raw.key for raw in read_samples(folder, "b.tar", samples)] == [found.key for found in samples]


def test_samples_are_read_from_every_store(store, shard):
    store.write("x/a.tar", shard)
    with store.open("x/a.tar") as stream:
        samples = scan_shard(stream, "x/a.tar", len(shard)).samples
    assert [raw.members["jpg"] for raw in read_samples(store, "x/a.tar", samples[2:4])] == [
        sample(2)["jpg"],
        sample(3)["jpg"],
    ]


def test_a_shard_that_changed_since_its_scan_is_noticed(folder, shard):
    samples = scan(shard).samples
    write_shard(folder.root / "a.tar", [{**sample(number), "jpg": b"other"} for number in range(COUNT)])
    with pytest.raises(ShardError, match=r"a.tar changed since it was scanned.*'0001'.*run again"):
        read_samples(folder, "a.tar", [samples[1]])


def test_a_sample_with_a_fault_is_not_read(folder):
    data = tar(("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"))
    folder.write("a.tar", data)
    with pytest.raises(ShardError, match=r"'a' of a.tar .*duplicate.*; quarantine it"):
        read_samples(folder, "a.tar", scan(data).samples)


def test_members_that_are_not_adjacent_are_read_back(folder):
    names = ["a.json", "b.json", "c.json", "a.jpg", "b.jpg", "c.jpg"]
    data = tar(*((name, name.encode()) for name in names))
    folder.write("a.tar", data)
    assert read_samples(folder, "a.tar", scan(data).samples[:2]) == [
        RawSample(key, {"json": f"{key}.json".encode(), "jpg": f"{key}.jpg".encode()}) for key in "ab"
    ]


def test_another_version_of_a_shard_than_was_scanned_is_not_read(store, shard):
    store.write("a.tar", shard)
    (entry,) = store.list()
    samples = scan(shard).samples
    assert len(read_samples(store, "a.tar", samples, entry.version)) == COUNT
    store.write("a.tar", shard + bytes(BLOCK))
    with pytest.raises(ShardError, match=r"a.tar changed since it was scanned: .*; run again"):
        read_samples(store, "a.tar", samples, entry.version)
    store.write("a.tar", shard[:BLOCK])
    with pytest.raises(ShardError, match=r"a.tar changed since it was scanned: .*; run again"):
        read_samples(store, "a.tar", samples[-1:], entry.version)
