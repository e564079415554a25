"""What only a store in a folder can get wrong."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import NotFoundError, StoreError, TransientError
from infra.stores.folder import FolderStore


def test_an_input_folder_must_be_there(tmp_path):
    with pytest.raises(NotFoundError, match=r"no folder .*absent"):
        FolderStore(tmp_path / "absent").check(write=False)
    assert not (tmp_path / "absent").exists()
    FolderStore(tmp_path).check(write=False)


def test_checking_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    store = FolderStore(tmp_path / "a" / "b")
    store.check()
    assert list(store.root.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        FolderStore(tmp_path / "file" / "store").check()


def test_no_hidden_file_remains(tmp_path):
    store = FolderStore(tmp_path)
    store.write("a/b", b"1")
    store.write("a/b", b"2")
    assert store.create("a/c", b"1")
    assert not store.create("a/c", b"2")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b", "c"]


def test_deleting_takes_the_folders_it_empties(tmp_path):
    store = FolderStore(tmp_path)
    store.write("a/b/c", b"")
    store.write("a/d", b"")
    store.delete(["a/b/c"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]
    store.delete(["a/d"])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_vanish_while_they_are_written_to_are_made_again(tmp_path):
    store = FolderStore(tmp_path)

    def write_and_delete(number):
        for _ in range(40):
            store.write(f"a/b/{number}", b"1")
            store.delete([f"a/b/{number}"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_and_delete, range(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.ENOSPC, StoreError, "free space"),
        (errno.EROFS, StoreError, "give this user the permission"),
        (errno.EINVAL, StoreError, "choose another folder"),
        (errno.EIO, TransientError, "check the disk"),
    ],
)
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, code, kind, says):
    store = FolderStore(tmp_path)
    store.write("a", b"old")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=f"{os.strerror(code)}; .*{says}"):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_filesystem_without_hard_links_is_not_conditional_but_still_creates(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = FolderStore(tmp_path)
    assert not store.conditional
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"


def test_a_relative_path_means_the_same_folder_after_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FolderStore("here")
    monkeypatch.chdir("/")
    store.write("a", b"")
    assert (tmp_path / "here" / "a").is_file()
    assert Path(store.url).is_absolute()
