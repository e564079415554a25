"""The contract of a store, held by every kind of store."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import NotFoundError, StoreError
from infra.stores.store import RESERVED_PREFIX, checked_name

THREADS = 16


def names(store, prefix=""):
    return [entry.name for entry in store.list(prefix)]


def test_a_new_store_passes_its_check_and_stays_empty(store):
    store.check()
    assert names(store) == []


def test_what_is_written_is_read_back(store):
    store.write("a/b.bin", b"content")
    assert store.read("a/b.bin") == b"content"


def test_a_local_file_is_written_whole(store, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"from a file" * 1000)
    store.write("a.bin", source)
    assert store.read("a.bin") == source.read_bytes()


def test_a_missing_local_file_is_named(store, tmp_path):
    with pytest.raises(StoreError, match="absent"):
        store.write("a.bin", tmp_path / "absent")


def test_writing_again_replaces_the_content_and_the_version(store):
    store.write("a", b"old")
    before = next(store.list())
    store.write("a", b"new")
    after = next(store.list())
    assert store.read("a") == b"new"
    assert (before.name, before.size) == (after.name, after.size) == ("a", 3)
    assert before.version != after.version


def test_a_range_is_read_as_a_slice(store):
    content = b"0123456789"
    store.write("a", content)
    for start, stop in [(0, None), (0, 4), (3, 7), (3, None), (7, 100), (10, 20), (50, 60), (50, None), (4, 4), (5, 2)]:
        assert store.read("a", start, stop) == content[start:stop], (start, stop)


def test_an_empty_object_is_read_as_no_bytes(store):
    store.write("a", b"")
    assert store.read("a") == store.read("a", 0, 5) == b""
    with store.open("a") as stream:
        assert stream.read() == b""
    assert next(store.list()).size == 0


def test_reading_what_is_not_there_raises_not_found_with_its_name(store):
    for read in (store.read, store.open):
        with pytest.raises(NotFoundError, match="absent"):
            read("absent")


def test_an_opened_object_seeks_like_a_file(store):
    store.write("a", bytes(range(256)) * 64)
    with store.open("a") as stream:
        assert stream.seekable()
        assert stream.read(3) == b"\0\1\2"
        assert stream.seek(-2, 2) == 256 * 64 - 2
        assert stream.read() == b"\xfe\xff"
        stream.seek(256)
        assert stream.tell() == 256
        assert stream.read(2) == b"\0\1"


def test_parquet_is_read_through_an_opened_object(store, tmp_path):
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), tmp_path / "t.parquet")
    store.write("t.parquet", tmp_path / "t.parquet")
    with store.open("t.parquet") as stream:
        assert pq.read_table(stream, columns=["b"]).column("b").to_pylist() == ["x", "y", "z"]


def test_existence_is_told(store):
    store.write("a/b", b"")
    assert store.exists("a/b")
    assert not store.exists("a")
    assert not store.exists("a/c")


def test_the_listing_is_sorted_as_text_and_knows_sizes(store):
    wanted = {"z/a": 1, "a/b": 2, "a-b/c": 3, "a.json": 4, "é/ü": 5}
    for name, size in wanted.items():
        store.write(name, b"x" * size)
    assert [(entry.name, entry.size) for entry in store.list()] == sorted(wanted.items())


def test_a_prefix_is_text_not_a_folder(store):
    for name in ("a-b/c", "a/b", "a/c/d", "b"):
        store.write(name, b"")
    assert names(store, "a") == ["a-b/c", "a/b", "a/c/d"]
    assert names(store, "a/") == ["a/b", "a/c/d"]
    assert names(store, "a/c") == ["a/c/d"]
    assert names(store, "x/y/") == []


def test_unfinished_writes_are_not_listed_and_can_be_swept(store):
    store.write("a/b", b"")
    left = f"a/{RESERVED_PREFIX}0123.part"
    if hasattr(store, "root"):
        (store.root / left).write_bytes(b"half")
    else:
        store._api.put_object(Bucket=store.bucket, Key=store.prefix + left, Body=b"half")
    assert names(store) == ["a/b"]
    assert store.sweep("elsewhere/") == 0
    assert store.sweep("a/") == 1
    assert store.sweep() == 0
    assert store.read("a/b") == b""


def test_deleting_takes_the_named_and_passes_over_the_missing(store):
    for name in ("a/b", "a/c", "d"):
        store.write(name, b"")
    store.delete(["a/b", "d", "never/was"])
    store.delete([])
    assert names(store) == ["a/c"]


def test_creating_tells_the_maker_from_the_others(store):
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.read("a/b") == b"first"


def test_of_many_creators_at_once_exactly_one_wins(conditional_store):
    store = conditional_store
    assert store.conditional
    for number in range(3):
        gate = Barrier(THREADS)

        def create(contender, gate=gate, name=f"race/{number}"):
            gate.wait()
            return store.create(name, b"%d" % contender)

        with ThreadPoolExecutor(THREADS) as threads:
            won = list(threads.map(create, range(THREADS)))
        assert won.count(True) == 1
        assert store.read(f"race/{number}") == b"%d" % won.index(True)


def test_readers_never_see_half_a_write(store):
    contents = [bytes([65 + number]) * 200_000 for number in range(2)]
    store.write("a", contents[0])
    with ThreadPoolExecutor(4) as threads:
        writes = [threads.submit(store.write, "a", contents[number % 2]) for number in range(8)]
        reads = [threads.submit(store.read, "a") for _ in range(16)]
        assert all(write.result() is None for write in writes)
        assert {read.result() for read in reads} <= set(contents)


def test_a_pickled_store_is_the_same_store(store):
    store.write("a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.url == store.url
    assert copy.read("a") == b"1"


def test_a_store_shows_its_address(store):
    assert store.url in repr(store)


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", ".", "..", "a\0b", ".invertmill-x"])
def test_names_with_detours_are_refused(name):
    with pytest.raises(StoreError, match="name"):
        checked_name(name)


def test_every_call_checks_its_name(store):
    for call in (store.read, store.open, store.exists):
        with pytest.raises(StoreError, match="relative path"):
            call("../outside")
