"""Files appear whole or not at all, also if others write the same path."""

import os
import threading
import time

import pytest

from infra import files
from infra.files import HIDDEN, put_link, staged
from infra.stores.storage import open_store


@pytest.mark.parametrize("other", ["process", "thread"])
def test_what_others_are_writing_to_the_same_path_is_their_own(tmp_path, monkeypatch, other):
    path = tmp_path / "report.html"

    def write() -> None:
        with staged(path) as partial:
            partial.write_text("other")

    with staged(path) as mine:
        mine.write_text("mine")
        if other == "process":
            monkeypatch.setattr(files, "PROCESS", "another")
            write()
        else:
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert path.read_text() == "other"
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_deleted_after_a_day(tmp_path):
    old, new = (tmp_path / f"{HIDDEN}report.html.{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    with staged(tmp_path / "report.html") as partial:
        partial.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", new.name}


def test_a_file_that_is_being_written_is_not_in_a_store(tmp_path):
    with staged(tmp_path / "a.tar") as partial:
        partial.write_text("half")
        assert list(open_store(str(tmp_path)).list()) == []
    assert [entry.name for entry in open_store(str(tmp_path)).list()] == ["a.tar"]


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")

    def fail() -> None:
        with staged(path) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "before")]


def test_a_second_name_is_given_twice_without_leaving_anything(tmp_path):
    file = tmp_path / "file"
    file.write_text("content")
    for _ in range(2):
        put_link(tmp_path / "folder" / "name", file)
    assert [path.read_text() for path in (tmp_path / "folder").iterdir()] == ["content"]
